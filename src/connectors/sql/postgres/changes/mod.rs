//! The changes of tables, by logical decoding: first a copy of each, then every transaction behind it, in the order of their commits.
//!
//! The server streams its log as it grows, over a connection of its own that speaks the replication protocol (`log`); to ask for the log by SQL
//! would make it decode everything since the slot's restart point with every question. What was read stays in the slot until the target has
//! committed it. A transaction that the copy's snapshot sees is passed over, so the hand-over neither loses a row nor sends one twice.

mod encrypt;
mod followed;
mod lane;
mod log;
mod natives;
mod pgoutput;
mod place;
mod reader;
mod slot;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::unfold;
use tokio::sync::mpsc;

use self::followed::Followed;
use self::place::Place;
use self::reader::{Following, Reader};
use self::slot::Slot;
use super::session::{Pool, Session, Use};
use super::source::PgSource;
use crate::connectors::{Description, ReadRequest, Reading, Source, SourceTable, Split, SplitGoal, Splits, requested};
use crate::data::{BatchLimit, BatchStream, Lag, Position, Schema};
use crate::failure::Failure;
use crate::tasks;

/// Chunks that may wait for the one who takes them.
const AHEAD: usize = 2;

/// Tables whose changes are followed.
pub(super) struct PgChanges {
    pub(super) pool: Arc<Pool>,
    pub(super) tables: Vec<PgSource>,
    /// The name of the slot.
    pub(super) slot: String,
    /// The tables' columns as the plan saw them.
    pub(super) planned: Mutex<Vec<Schema>>,
}

impl PgChanges {
    async fn find(&self, session: &mut Session) -> Result<Vec<Followed>, Failure> {
        let mut found = Vec::with_capacity(self.tables.len());
        for (number, table) in self.tables.iter().enumerate() {
            let number = (self.tables.len() > 1).then_some(number);
            found.push(Followed::find(session, table, number).await?);
        }
        Ok(found)
    }
}

#[async_trait]
impl Source for PgChanges {
    async fn describe(&self) -> Result<Description, Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        followed::can_decode(&mut session).await?;
        let mut found = self.find(&mut session).await?;
        session.release();
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = found.iter().map(|table| table.schema.clone()).collect();
        let name = &self.slot;
        let whose = if found.len() == 1 { "its" } else { "their" };
        let consistency = format!("copied first, then {whose} changes by the slot and publication {name}, which `haul drop` removes");
        let (schema, key) = match found.pop() {
            Some(only) if found.is_empty() => (only.schema, only.key_names),
            _ => (Schema { columns: Vec::new() }, Vec::new()),
        };
        Ok(Description { schema, key, rows: None, bytes: None, wire: None, consistency })
    }

    async fn tables(&self) -> Result<Vec<SourceTable>, Failure> {
        if self.tables.len() == 1 {
            return Ok(Vec::new());
        }
        let mut session = self.pool.session(Use::Read).await?;
        let found = self.find(&mut session).await?;
        session.release();
        let table = |found: Followed| SourceTable { label: found.label, schema: found.schema, key: found.key_names };
        Ok(found.into_iter().map(table).collect())
    }

    async fn unsent(&self) -> Result<Vec<String>, Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        let mut unsent = Vec::new();
        for table in self.find(&mut session).await? {
            unsent.extend(table.unsent(&mut session).await?);
        }
        session.release();
        Ok(unsent)
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        let mut tables = self.find(&mut session).await?;
        session.release();
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What is written goes by the plan's columns.
        if let Some((table, _)) = tables.iter().zip(&planned).find(|(table, planned)| table.schema != **planned) {
            let message = format!("the columns of {} have changed since the plan was made", table.label);
            return Err(Failure::permanent(message).help("run again, so that a new plan is made"));
        }
        let schema = match tables.as_mut_slice() {
            [only] => {
                only.schema = requested(&only.schema, &request)?;
                only.schema.clone()
            }
            _ => Schema { columns: Vec::new() },
        };
        let slot = Slot { name: self.slot.clone() };
        let done = Arc::new(AtomicU64::new(0));
        Ok(Arc::new(Changes { pool: Arc::clone(&self.pool), tables, schema, slot, limit: request.limit, done, lag: Arc::default() }))
    }

    async fn forget(&self) -> Result<Vec<String>, Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        let slot = Slot { name: self.slot.clone() };
        let removed = slot.remove(&mut session).await?;
        session.release();
        Ok(if removed { vec![format!("the slot and publication {}", slot.name)] } else { Vec::new() })
    }
}

struct Changes {
    pool: Arc<Pool>,
    tables: Vec<Followed>,
    /// The columns of the table; none of several.
    schema: Schema,
    slot: Slot,
    limit: BatchLimit,
    /// Everything before this place in the log is committed in the target.
    done: Arc<AtomicU64>,
    /// How far the reader is behind, as it saw last.
    lag: Arc<Mutex<Option<Lag>>>,
}

#[async_trait]
impl Reading for Changes {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        let labels: Vec<&str> = self.tables.iter().map(|table| table.label.as_str()).collect();
        Ok(Splits::whole(labels.join(", ")))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Never ends by itself.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let from = from.map(Place::read).transpose()?;
        let (send, receive) = mpsc::channel(AHEAD);
        let following = Following {
            pool: Arc::clone(&self.pool),
            tables: self.tables.clone(),
            slot: self.slot.clone(),
            limit: self.limit,
            done: Arc::clone(&self.done),
            lag: Arc::clone(&self.lag),
        };
        let reader = Reader::new(following, send)?;
        let task = tasks::start(reader.run(from));
        Ok(Box::pin(unfold((receive, task), |(mut receive, task)| async move {
            let chunk = receive.recv().await?;
            Some((chunk, (receive, task)))
        })))
    }

    fn lag(&self) -> Option<Lag> {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader tells the server: nobody else may move a slot that is being streamed.
    async fn acknowledge(&self, position: &Position) -> Result<(), Failure> {
        self.done.fetch_max(Place::read(position)?.0, Ordering::Relaxed);
        Ok(())
    }
}
