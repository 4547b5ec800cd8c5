//! The changes of a table, by logical decoding: first a copy of the table, then every transaction behind it, in the order of their commits.
//!
//! The log is asked by SQL (`pg_logical_slot_peek_binary_changes`) over an ordinary connection, so that TLS, passwords and limits are those of
//! every other connection. What was read stays in the slot until the target has committed it; then the slot is advanced. A transaction that
//! the copy's snapshot sees is passed over, so the hand-over neither loses a row nor sends one twice.

mod pgoutput;
mod place;
mod reader;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::unfold;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::place::Place;
use self::reader::Reader;
use self::slot::Slot;
use super::catalog::{self, ident};
use super::columns_of;
use super::error::failure;
use super::session::{Pool, Session, Use};
use super::source::{PgSource, Relation};
use super::types::PgType;
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Column, Position, Schema, Type, change};
use crate::define::pipeline::ChangesSource;
use crate::failure::Failure;

/// Chunks that may wait for the one who takes them.
const AHEAD: usize = 2;

/// A table whose changes are followed.
pub(super) struct PgChanges {
    pub(super) source: PgSource,
    pub(super) spec: ChangesSource,
}

/// The table, as it is now.
#[derive(Clone)]
struct Followed {
    label: String,
    /// Quoted.
    table: String,
    schema: Schema,
    types: Vec<PgType>,
    /// Places of the key in the schema.
    key: Vec<usize>,
    key_names: Vec<String>,
}

impl Followed {
    async fn find(session: &mut Session, source: &PgSource) -> Result<Self, Failure> {
        let relation = Relation::find(session, &source.spec).await?;
        let label = relation.label.clone();
        let Some(table) = relation.table.as_ref().filter(|table| table.kind == 'r') else {
            return Err(Failure::permanent(format!("{label} is no plain table, and only the changes of one can be followed"))
                .help("follow its partitions one by one, or follow it by a cursor"));
        };
        let level: String = sqlx::query_scalar("show wal_level").fetch_one(session.raw()).await.map_err(failure)?;
        if level != "logical" {
            return Err(Failure::permanent(format!(
                "the server's `wal_level` is `{level}`, and changes can only be followed with `logical`"
            ))
            .help("set `wal_level = logical` in postgresql.conf and restart the server, or follow the table by a cursor"));
        }
        let identity: String = sqlx::query_scalar("select relreplident::text from pg_class where oid = $1")
            .bind(sqlx::postgres::types::Oid(table.oid))
            .fetch_one(session.raw())
            .await
            .map_err(failure)?;
        if relation.key.is_empty() || !matches!(identity.as_str(), "d" | "f") {
            return Err(Failure::permanent(format!(
                "changed and deleted rows of {label} have no name: it has no primary key, or another replica identity"
            ))
            .help(format!("add a primary key, and `alter table {label} replica identity default`")));
        }
        // Generated columns are not in the log; who computes them there computes them here.
        let columns: Vec<catalog::TableColumn> = table.columns.iter().filter(|column| !column.generated).cloned().collect();
        if let Some(column) = columns.iter().find(|column| column.ty.as_text) {
            return Err(Failure::permanent(format!(
                "the column `{}` of {label} has the type {}, which has no portable binary form",
                column.name, column.ty.name
            ))
            .help("follow the table by a cursor instead"));
        }
        let schema = columns_of(&columns);
        let key = relation.key.iter().filter_map(|name| schema.find(name).map(|(place, _)| place)).collect();
        Ok(Self {
            table: catalog::quoted(&[table.schema.clone(), table.name.clone()])?,
            types: columns.into_iter().map(|column| column.ty).collect(),
            key,
            key_names: relation.key.clone(),
            schema,
            label,
        })
    }

    /// The columns of a batch of changes: those of the table, which may all be NULL where a row is gone, and two more.
    fn wire(&self) -> (Schema, Vec<PgType>) {
        let mut columns: Vec<Column> = self.schema.columns.iter().map(|column| Column { nullable: true, ..column.clone() }).collect();
        columns.extend([change::CHANGE, change::KEPT].map(|name| Column::new(name, Type::Text)));
        let types = self.types.iter().cloned().chain([PgType::text(), PgType::text()]).collect();
        (Schema { columns }, types)
    }

    /// The statement that copies the table in the form of changes.
    fn copy(&self) -> Result<String, Failure> {
        let names = self.schema.columns.iter().map(|column| ident(&column.name)).collect::<Result<Vec<_>, _>>()?.join(", ");
        Ok(format!("copy (select {names}, '{}'::text, null::text from {}) to stdout (format binary)", change::PUT, self.table))
    }
}

#[async_trait]
impl Source for PgChanges {
    async fn describe(&self) -> Result<Description, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        let followed = Followed::find(&mut session, &self.source).await?;
        session.release();
        let name = &self.spec.slot;
        let consistency = format!("copied first, then its changes by the slot and publication {name}, which `haul drop` removes");
        Ok(Description { schema: followed.schema, key: followed.key_names, rows: None, bytes: None, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        let followed = Followed::find(&mut session, &self.source).await?;
        session.release();
        let slot = Slot { name: self.spec.slot.clone() };
        let done = Arc::new(AtomicU64::new(0));
        Ok(Arc::new(Changes { pool: Arc::clone(&self.source.pool), followed, slot, limit: request.limit, done }))
    }

    async fn forget(&self) -> Result<Vec<String>, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        let slot = Slot { name: self.spec.slot.clone() };
        let removed = slot.remove(&mut session).await?;
        session.release();
        Ok(if removed { vec![format!("the slot and publication {}", slot.name)] } else { Vec::new() })
    }
}

struct Changes {
    pool: Arc<Pool>,
    followed: Followed,
    slot: Slot,
    limit: BatchLimit,
    /// Everything before this place in the log is committed in the target.
    done: Arc<AtomicU64>,
}

#[async_trait]
impl Reading for Changes {
    fn schema(&self) -> &Schema {
        &self.followed.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        let label = self.followed.label.clone();
        Ok(Splits::whole(label))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Never ends by itself.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let from = from.map(Place::read).transpose()?;
        let (send, receive) = mpsc::channel(AHEAD);
        let reader =
            Reader::new(Arc::clone(&self.pool), self.followed.clone(), self.slot.clone(), self.limit, Arc::clone(&self.done), send)?;
        let task = AbortOnDropHandle::new(tokio::spawn(reader.run(from)));
        Ok(Box::pin(unfold((receive, task), |(mut receive, task)| async move {
            let chunk = receive.recv().await?;
            Some((chunk, (receive, task)))
        })))
    }

    /// The reader advances the slot when it next asks: nobody else may use a slot while it is asked.
    async fn acknowledge(&self, position: &Position) -> Result<(), Failure> {
        self.done.fetch_max(Place::read(position)?.0, Ordering::Relaxed);
        Ok(())
    }
}
