//! The one explicit list of connectors: which engine answers for which URL, and for which family of `from:` and `to:`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::Root;
use super::http::Api;
use super::redis;
use super::sql::{postgres::Server, sqlite::Database};
use super::{Sink, Source, discard, feed, generate};
use crate::data::Schema;
use crate::define::pipeline::{Connection, Engine, Pipeline, SinkSpec, SourceSpec, SqlSink};
use crate::failure::Failure;
use crate::transform::Problem;

/// A system that has been opened. Opening makes no connection yet.
#[derive(Clone)]
enum Opened {
    Postgres(Arc<Server>),
    Sqlite(Arc<Database>),
    Files(Arc<Root>),
    Redis(Arc<redis::Server>),
    Http(Arc<Api>),
}

/// The systems a pipeline names, each opened once and shared by every source and sink that uses it.
pub struct Connections {
    base: PathBuf,
    named: BTreeMap<String, Connection>,
    opened: Mutex<BTreeMap<String, Opened>>,
}

/// Why an input has no reader.
pub enum Unusable {
    /// Its system cannot be opened.
    Failure(Failure),
    /// Its expressions are wrong.
    Expressions(Vec<Problem>),
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Connections {
    /// Opens nothing yet.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self { base: pipeline.base.clone(), named: pipeline.connections.clone(), opened: Mutex::default() }
    }

    /// The reader of an input. An input that is a stage has none.
    pub fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>, Unusable> {
        match spec {
            SourceSpec::Sql(sql) => match self.open(&sql.connection)? {
                Opened::Postgres(server) => Ok(server.source(sql)),
                Opened::Sqlite(database) => Ok(database.source(sql)),
                Opened::Files(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(&sql.connection, "sql").into()),
            },
            SourceSpec::Poll(poll) => match self.open(&poll.sql.connection)? {
                Opened::Postgres(server) => Ok(server.poll(poll)),
                Opened::Sqlite(database) => Ok(database.poll(poll)),
                Opened::Files(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(&poll.sql.connection, "sql").into()),
            },
            SourceSpec::Changes(changes) => match self.open(&changes.connection)? {
                Opened::Postgres(server) => Ok(server.changes(changes)),
                Opened::Sqlite(_) => Err(Failure::permanent(format!("`{}` is SQLite, which keeps no log of changes", changes.connection))
                    .help("follow the table by a cursor: `{ table: …, cursor: … }`")
                    .into()),
                Opened::Files(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(&changes.connection, "sql").into()),
            },
            SourceSpec::Files(files) => Ok(self.files(&files.connection)?.source(files)),
            SourceSpec::Redis(rows) => Ok(self.redis(&rows.connection)?.rows(rows)),
            SourceSpec::Http(answers) => Ok(self.http(&answers.connection)?.source(answers)),
            SourceSpec::RedisFollow(follow) => Ok(self.redis(&follow.rows.connection)?.follow(follow)),
            SourceSpec::RedisChannel(messages) => Ok(self.redis(&messages.connection)?.channel(messages)),
            SourceSpec::Generate(generate) => generate::source(generate).map_err(Unusable::Expressions),
            SourceSpec::RedisKeys(keys) => Ok(self.redis(&keys.connection)?.keys(keys)),
            SourceSpec::Stage(name) => Err(Failure::permanent(format!("stage `{name}` is no system to read from")).into()),
        }
    }

    /// The writer of an output.
    pub fn sink(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>, Failure> {
        match spec {
            SinkSpec::Sql(sql) => match self.open(&sql.connection)? {
                Opened::Postgres(server) => Ok(server.sink(sql)),
                Opened::Sqlite(database) => Ok(database.sink(sql)),
                Opened::Files(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(&sql.connection, "sql")),
            },
            SinkSpec::Tables(_) => Err(Failure::permanent("several tables are no single place to write to")),
            SinkSpec::Files(files) => Ok(self.files(&files.connection)?.sink(files)),
            SinkSpec::Redis(rows) => Ok(self.redis(&rows.connection)?.rows_sink(rows)),
            SinkSpec::RedisKeys(keys) => Ok(self.redis(&keys.connection)?.keys_sink(keys)),
            SinkSpec::Http(sink) => Ok(self.http(&sink.connection)?.sink(sink, &self.base)),
            SinkSpec::Feed(sink) => Ok(feed::sink(sink, &self.base)),
            SinkSpec::Discard => Ok(discard::sink()),
            SinkSpec::Cache(sink) => Err(Failure::permanent(format!("cache `{}` is no system to write to", sink.cache))),
        }
    }

    /// The writer of several tables of one database, each with the columns that come for it.
    pub fn tables(&self, tables: Vec<(SqlSink, Schema)>) -> Result<Arc<dyn Sink>, Failure> {
        let connection = tables.first().map(|(sink, _)| sink.connection.clone()).unwrap_or_default();
        match self.open(&connection)? {
            Opened::Postgres(server) => Ok(server.tables(tables)),
            Opened::Sqlite(database) => Ok(database.tables(tables)),
            Opened::Files(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(&connection, "sql")),
        }
    }

    /// The root folder or bucket that a connection names.
    pub fn files(&self, name: &str) -> Result<Arc<Root>, Failure> {
        match self.open(name)? {
            Opened::Files(root) => Ok(root),
            Opened::Postgres(_) | Opened::Sqlite(_) | Opened::Redis(_) | Opened::Http(_) => Err(wrong_family(name, "files")),
        }
    }

    /// The Redis server or cluster that a connection names.
    pub fn redis(&self, name: &str) -> Result<Arc<redis::Server>, Failure> {
        match self.open(name)? {
            Opened::Redis(server) => Ok(server),
            Opened::Postgres(_) | Opened::Sqlite(_) | Opened::Files(_) | Opened::Http(_) => Err(wrong_family(name, "redis")),
        }
    }

    fn http(&self, name: &str) -> Result<Arc<Api>, Failure> {
        match self.open(name)? {
            Opened::Http(api) => Ok(api),
            Opened::Postgres(_) | Opened::Sqlite(_) | Opened::Files(_) | Opened::Redis(_) => Err(wrong_family(name, "http")),
        }
    }

    fn open(&self, name: &str) -> Result<Opened, Failure> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = opened.get(name) {
            return Ok(found.clone());
        }
        let connection = self.named.get(name).ok_or_else(|| Failure::permanent(format!("there is no connection `{name}`")))?;
        let made = match connection.engine {
            Some(Engine::Postgres) => Opened::Postgres(Server::new(connection)?),
            Some(Engine::Sqlite) => Opened::Sqlite(Database::new(connection, &self.base)?),
            Some(Engine::File | Engine::S3) => Opened::Files(Root::new(connection, &self.base)?),
            Some(Engine::Redis) => Opened::Redis(redis::Server::new(connection, &self.base)?),
            Some(Engine::Http) => Opened::Http(Api::new(connection)?),
            None => return Err(Failure::permanent(format!("the URL of connection `{name}` names no engine haul knows"))),
        };
        opened.insert(name.to_owned(), made.clone());
        Ok(made)
    }
}

fn wrong_family(connection: &str, family: &str) -> Failure {
    Failure::permanent(format!("connection `{connection}` does not serve `{family}:`"))
}
