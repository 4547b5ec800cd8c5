//! PostgreSQL, over its COPY protocol.
//!
//! Reading and writing go through COPY BINARY only, so values are never printed or parsed on the way. One connection holds a snapshot, and
//! every split is read under it on a connection of its own. What is written commits together with its mark. Nothing here retries, and no
//! connection outlives its use inside a transaction.
//!
//! `session` makes connections, with what `login` knows; `catalog` and `types` ask what the server knows. `tuples`, `numeric`, `values` and
//! `decode` turn the wire into batches, `encode` the other way; `fit` says which types go together. Reading is `source`, `splits` and `read`;
//! `poll` follows a cursor, `changes` the log. Writing is `sink`, `tables` (several at once), `target` (the plan), `marks` (the ledger), `writer` over
//! `open` and `copying`, `upsert`, `apply` (changes) with `came` (their kinds), `sift` (what is refused), and at the end `publish` and `swap`.

mod apply;
mod came;
mod catalog;
mod changes;
mod copying;
mod decode;
mod encode;
mod error;
mod fit;
mod login;
mod marks;
mod numeric;
mod open;
mod poll;
mod publish;
mod read;
mod session;
mod sift;
mod sink;
mod source;
mod splits;
mod swap;
mod tables;
mod target;
mod texts;
mod tuples;
mod types;
mod upsert;
mod values;
mod widths;
mod writer;

use std::sync::{Arc, Mutex};

use crate::connectors::{Sink, Source};
use crate::data::{Column, Schema};
use crate::define::pipeline::{ChangesSource, Connection, PollSource, SqlRead, SqlSink, SqlSource};
use crate::failure::Failure;

/// One server, shared by all that read and write through the same connection of a pipeline.
pub struct Server {
    pool: Arc<session::Pool>,
}

impl Server {
    /// Reads the connection's URL. Connects to nothing yet.
    ///
    /// # Errors
    /// A permanent failure when the URL or the number of connections makes no sense.
    pub fn new(connection: &Connection) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self { pool: Arc::new(session::Pool::new(connection)?) }))
    }

    /// A table or query to read.
    pub fn source(&self, spec: &SqlSource) -> Arc<dyn Source> {
        Arc::new(source::PgSource { pool: Arc::clone(&self.pool), spec: spec.clone() })
    }

    /// A table or query to follow.
    pub fn poll(&self, spec: &PollSource) -> Arc<dyn Source> {
        let source = source::PgSource { pool: Arc::clone(&self.pool), spec: spec.sql.clone() };
        Arc::new(poll::PgPoll { source, spec: spec.clone() })
    }

    /// Tables whose changes are followed.
    pub fn changes(&self, spec: &ChangesSource) -> Arc<dyn Source> {
        let table = |name: &Vec<String>| {
            let read = SqlRead::Table { name: name.clone(), columns: Vec::new(), filter: None };
            SqlSource { connection: spec.connection.clone(), read, split_by: None }
        };
        let source = |name| source::PgSource { pool: Arc::clone(&self.pool), spec: table(name) };
        let tables = spec.tables.iter().map(source).collect();
        Arc::new(changes::PgChanges { pool: Arc::clone(&self.pool), tables, slot: spec.slot.clone(), planned: Mutex::default() })
    }

    /// A table to write.
    pub fn sink(&self, spec: &SqlSink) -> Arc<dyn Sink> {
        Arc::new(sink::PgSink { pool: Arc::clone(&self.pool), spec: Arc::new(spec.clone()) })
    }

    /// Tables that are written together, each with the columns that come for it.
    pub fn tables(&self, tables: Vec<(SqlSink, Schema)>) -> Arc<dyn Sink> {
        let sink = |spec| sink::PgSink { pool: Arc::clone(&self.pool), spec: Arc::new(spec) };
        let tables = tables.into_iter().map(|(spec, schema)| writer::Table { sink: sink(spec), schema }).collect();
        Arc::new(tables::PgTables { tables })
    }
}

/// The logical columns of a table's or query's own. What is read in its text form has no type of the engine's: there it is another one, to
/// which conditions mean something else.
fn columns_of(columns: &[catalog::TableColumn]) -> Schema {
    let columns = columns.iter().map(|column| Column {
        name: column.name.clone(),
        ty: column.ty.logical(),
        nullable: !column.not_null,
        native: (!column.ty.as_text).then(|| column.ty.name.clone()),
    });
    Schema { columns: columns.collect() }
}
