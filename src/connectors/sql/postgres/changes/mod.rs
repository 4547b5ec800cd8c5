//! The changes of a table, by logical decoding: first a copy of the table, then every transaction behind it, in the order of their commits.
//!
//! The server streams its log as it grows, over a connection of its own that speaks the replication protocol (`log`); to ask for the log by SQL
//! would make it decode everything since the slot's restart point with every question. What was read stays in the slot until the target has
//! committed it. A transaction that the copy's snapshot sees is passed over, so the hand-over neither loses a row nor sends one twice.

mod encrypt;
mod followed;
mod lane;
mod log;
mod pgoutput;
mod place;
mod reader;
mod slot;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::unfold;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::followed::Followed;
use self::place::Place;
use self::reader::{Following, Reader};
use self::slot::Slot;
use super::session::{Pool, Use};
use super::source::PgSource;
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Position, Schema};
use crate::define::pipeline::ChangesSource;
use crate::failure::Failure;

/// Chunks that may wait for the one who takes them.
const AHEAD: usize = 2;

/// A table whose changes are followed.
pub(super) struct PgChanges {
    pub(super) source: PgSource,
    pub(super) spec: ChangesSource,
}

#[async_trait]
impl Source for PgChanges {
    async fn describe(&self) -> Result<Description, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        followed::can_decode(&mut session).await?;
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
        let following = Following {
            pool: Arc::clone(&self.pool),
            tables: vec![self.followed.clone()],
            slot: self.slot.clone(),
            limit: self.limit,
            done: Arc::clone(&self.done),
        };
        let reader = Reader::new(following, send)?;
        let task = AbortOnDropHandle::new(tokio::spawn(reader.run(from)));
        Ok(Box::pin(unfold((receive, task), |(mut receive, task)| async move {
            let chunk = receive.recv().await?;
            Some((chunk, (receive, task)))
        })))
    }

    /// The reader tells the server: nobody else may move a slot that is being streamed.
    async fn acknowledge(&self, position: &Position) -> Result<(), Failure> {
        self.done.fetch_max(Place::read(position)?.0, Ordering::Relaxed);
        Ok(())
    }
}
