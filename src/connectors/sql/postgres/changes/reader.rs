//! Reads the copy and then the log, and makes batches of changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use sqlx::Row;
use tokio::sync::mpsc;
use tokio::task::unconstrained;

use super::followed::Followed;
use super::lane::Lane;
use super::log::{EPOCH_US, Event, Log};
use super::natives;
use super::pgoutput::Message;
use super::place::{self, Copied, Place};
use super::slot::Slot;
use crate::clock;
use crate::connectors::sql::postgres::error::failure;
use crate::connectors::sql::postgres::read;
use crate::connectors::sql::postgres::session::{Pool, Use};
use crate::data::{BatchLimit, Chunk, Lag};
use crate::failure::Failure;

/// How often the server is asked where its log ends, and told what is committed.
const LOOK: Duration = Duration::from_secs(1);

/// What a reader reads, and what it goes by.
pub(super) struct Following {
    pub pool: Arc<Pool>,
    pub tables: Vec<Followed>,
    pub slot: Slot,
    pub limit: BatchLimit,
    /// Everything before this place in the log is committed in the target.
    pub done: Arc<AtomicU64>,
    /// How far the target is behind, told with every look.
    pub lag: Arc<Mutex<Option<Lag>>>,
}

pub(super) struct Reader {
    following: Following,
    send: mpsc::Sender<Result<Chunk, Failure>>,
    lanes: Vec<Lane>,
    /// The lane of a table, by the table's number.
    lane_of: BTreeMap<u32, usize>,
    /// Everything that was committed before has been handed on, or is in a lane.
    lsn: u64,
    /// The position that was handed on last.
    told: Option<u64>,
    /// The position behind the last rows that were handed on; the greatest there is as long as their transaction goes on.
    rows: u64,
    copied: Option<Copied>,
    /// The transaction that is being read; `true` when the copy holds it already.
    transaction: Option<bool>,
    /// Where it ends in the log.
    ends_at: u64,
    /// How many changes had been taken when it began.
    before: u64,
    /// The commit of the last transaction that was read.
    at_us: Option<i64>,
    /// Where the log ended when it was last looked at.
    end: u64,
    /// Where it ended at first: who has come so far has caught up.
    goal: u64,
    /// Bytes of log that the server keeps for the slot.
    kept: u64,
}

/// Nobody takes chunks any more.
struct Closed;

impl Reader {
    pub(super) fn new(following: Following, send: mpsc::Sender<Result<Chunk, Failure>>) -> Result<Self, Failure> {
        let lanes = following.tables.iter().map(|table| Lane::new(table.clone(), following.limit)).collect::<Result<Vec<_>, _>>()?;
        let lane_of = following.tables.iter().enumerate().map(|(lane, table)| (table.oid, lane)).collect();
        let (lsn, end, goal, kept) = (0, 0, 0, 0);
        Ok(Self {
            following,
            send,
            lanes,
            lane_of,
            lsn,
            told: None,
            rows: 0,
            copied: None,
            transaction: None,
            ends_at: 0,
            before: 0,
            at_us: None,
            end,
            goal,
            kept,
        })
    }

    /// Reads until nobody listens any more, or until something breaks.
    pub(super) async fn run(mut self, from: Option<(u64, Option<Copied>)>) {
        let followed = async {
            match from {
                Some((lsn, copied)) => (self.lsn, self.copied) = (lsn, copied),
                None => {
                    if self.copy().await?.is_err() {
                        return Ok(());
                    }
                }
            }
            // When nobody listens there is nobody to tell.
            self.follow().await.map(drop)
        };
        if let Err(failure) = followed.await {
            // Nobody waits for the failure when the queue is closed.
            let _ = self.send.send(Err(failure)).await;
        }
    }

    /// Makes the slot, and hands the tables on as they are after that. Only the end of the copy is a position.
    async fn copy(&mut self) -> Result<Result<(), Closed>, Failure> {
        let Following { pool, tables, slot, limit, .. } = &self.following;
        let mut session = pool.session(Use::View).await?;
        slot.make(&mut session, tables).await?;
        session.run("begin isolation level repeatable read read only").await?;
        let row = sqlx::query(
            "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1",
        );
        let row = row.bind(&slot.name).fetch_one(session.raw()).await.map_err(failure)?;
        let text = |place: usize| row.try_get::<String, _>(place).map_err(failure);
        self.copied = Some(Copied { snapshot: text(0)?, until: text(1)? });
        (self.lsn, self.rows) = (place::parse(&text(2)?)?, u64::MAX);
        for table in tables {
            let decoder = Lane::decoder(table, table.wire(), *limit)?;
            if !read::send_batches(&mut session, &table.copy()?, decoder, &self.send).await? {
                return Ok(Err(Closed));
            }
        }
        session.finish().await?;
        self.flush(None).await
    }

    async fn follow(&mut self) -> Result<Result<(), Closed>, Failure> {
        self.look().await?;
        self.goal = self.end;
        let mut log = Log::start(&self.following.pool, &self.following.slot, self.lsn).await?;
        if self.lsn >= self.goal && self.flush(Some(&mut log)).await?.is_err() {
            return Ok(Err(Closed));
        }
        let mut looked = clock::instant();
        loop {
            // What is there is taken without a pause; a batch ends where the next message has not come yet.
            let event = match unconstrained(log.next()).now_or_never() {
                Some(event) => Some(event?),
                None if self.transaction.is_none() && self.flush(Some(&mut log)).await?.is_err() => return Ok(Err(Closed)),
                None => tokio::select! {
                    event = log.next() => Some(event?),
                    () = self.send.closed() => return Ok(Err(Closed)),
                    () = tokio::time::sleep_until(looked + LOOK) => None,
                },
            };
            if let Some(event) = event {
                if let Event::Alive { asks: true, .. } = event {
                    log.confirm(self.done()).await?;
                }
                let full = match self.take(event) {
                    Ok(full) => full,
                    Err(failure) => {
                        // The transactions before can be committed: the next plan may not understand them.
                        if self.taken() == self.before {
                            self.transaction = None;
                            let _ = self.flush(Some(&mut log)).await?;
                        }
                        return Err(failure);
                    }
                };
                if full && self.flush(Some(&mut log)).await?.is_err() {
                    return Ok(Err(Closed));
                }
            }
            if looked.elapsed() >= LOOK {
                log.confirm(self.done()).await?;
                self.look().await?;
                looked = clock::instant();
            }
        }
    }

    /// Everything before this place may go from the server's log. What came behind the last rows that are committed concerns other tables: a
    /// server that shuts down would wait for it to be confirmed.
    fn done(&self) -> u64 {
        let done = self.following.done.load(Ordering::Relaxed);
        let nothing_waits = self.transaction.is_none() && done >= self.rows && self.lanes.iter().all(|lane| lane.decoder.is_empty());
        if nothing_waits { done.max(self.lsn) } else { done }
    }

    /// Asks where the log ends, and whether the slot is still what it was. Tells how far what is committed is behind.
    async fn look(&mut self) -> Result<(), Failure> {
        let mut session = self.following.pool.session(Use::Read).await?;
        self.kept = self.following.slot.check(&mut session, &self.following.tables).await?;
        self.end = Slot::end_of_log(&mut session).await?;
        session.release();
        // Where everything that was handed on is committed, the log has only moved on by what is of no matter.
        let done = self.done();
        let lag = self.lag(if done >= self.rows { self.lsn } else { done });
        *self.following.lag.lock().unwrap_or_else(PoisonError::into_inner) = Some(lag);
        Ok(())
    }

    /// Takes what the server says. True when a batch is full.
    fn take(&mut self, event: Event) -> Result<bool, Failure> {
        match event {
            Event::Begin { end, xid } => {
                let copied = self.copied.as_ref().map(|copied| copied.holds(xid, end)).transpose()?;
                self.transaction = Some(end < self.lsn || copied == Some(true));
                (self.ends_at, self.before) = (end, self.taken());
            }
            Event::Commit { after, at_us } => {
                self.lsn = self.lsn.max(after);
                if self.transaction.take() == Some(false) {
                    self.at_us = Some(at_us);
                }
                // Only here can the target commit: a batch that ends half full has a position, one that waits to be full may never get one.
                return Ok(self.has_grown(2));
            }
            // The log may have moved on by what concerns other tables.
            Event::Alive { until, .. } if self.transaction.is_none() => self.lsn = self.lsn.max(until),
            Event::Alive { .. } => {}
            Event::Change(message) => self.change(Message::read(&message)?)?,
        }
        Ok(self.has_grown(1))
    }

    /// Whether what waits has reached one part of `parts` of a batch.
    fn has_grown(&self, parts: usize) -> bool {
        let (mut rows, mut bytes) = (0, 0);
        for lane in &self.lanes {
            let waiting = lane.decoder.waiting();
            (rows, bytes) = (rows + waiting.0, bytes + waiting.1);
        }
        rows * parts >= self.following.limit.rows.max(1) || bytes * parts >= self.following.limit.bytes
    }

    fn change(&mut self, message: Message<'_>) -> Result<(), Failure> {
        let skipped = self.transaction == Some(true);
        match message {
            Message::Relation { table, columns } => {
                let end = self.ends_at;
                self.lane(table).map_or(Ok(()), |lane| lane.relation(&columns, end, skipped))
            }
            _ if skipped => Ok(()),
            Message::Insert { table, new } => self.lane(table).map_or(Ok(()), |lane| lane.insert(&new)),
            Message::Update { table, old, whole, new } => self.lane(table).map_or(Ok(()), |lane| lane.update(old.as_ref(), whole, &new)),
            Message::Delete { table, old } => self.lane(table).map_or(Ok(()), |lane| lane.delete(&old)),
            Message::Truncate(tables) => tables.into_iter().try_for_each(|table| self.lane(table).map_or(Ok(()), Lane::truncate)),
            Message::Other => Ok(()),
        }
    }

    /// How many changes have been taken.
    fn taken(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.decoder.taken()).sum()
    }

    fn lane(&mut self, table: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(*self.lane_of.get(&table)?)
    }

    /// How far this place is behind the end of the log.
    fn lag(&self, place: u64) -> Lag {
        let behind = |at_us: i64| (clock::now_ms() - (at_us + EPOCH_US) / 1000).max(0).unsigned_abs();
        let at_end = place >= self.end;
        Lag {
            caught_up: place >= self.goal,
            behind_ms: if at_end { Some(0) } else { self.at_us.map(behind) },
            bytes: Some(self.end.saturating_sub(place)),
            kept: Some(self.kept),
        }
    }

    /// Hands on everything so far. The last batch has the position that it brings the stream to, unless it stands in the middle of a
    /// transaction: nothing of that is committed before its end.
    async fn flush(&mut self, mut log: Option<&mut Log>) -> Result<Result<(), Closed>, Failure> {
        let mut chunks = Vec::new();
        for lane in &mut self.lanes {
            if let Some(chunk) = lane.finish()? {
                chunks.push(natives::as_text(&self.following.pool, &lane.followed, chunk).await?);
            }
        }
        if !chunks.is_empty() {
            self.rows = u64::MAX;
        }
        if self.transaction.is_none() && (!chunks.is_empty() || self.told != Some(self.lsn)) {
            let position = Place::new(self.lsn, self.copied.as_ref()).position()?;
            if self.rows == u64::MAX {
                self.rows = self.lsn;
            }
            if chunks.is_empty()
                && let Some(lane) = self.lanes.first_mut()
            {
                chunks.push(natives::as_text(&self.following.pool, &lane.followed, lane.decoder.finish()?).await?);
            }
            if let Some(last) = chunks.last_mut() {
                last.position = Some(position);
                last.lag = Some(self.lag(self.lsn));
            }
            self.told = Some(self.lsn);
        }
        for chunk in chunks {
            let send = self.send.clone();
            let mut handed = std::pin::pin!(send.send(Ok(chunk)));
            loop {
                tokio::select! {
                    handed = &mut handed => match handed {
                        Ok(()) => break,
                        Err(_) => return Ok(Err(Closed)),
                    },
                    // A target that takes its time must not look to the server as if nobody listened.
                    () = tokio::time::sleep(LOOK) => {
                        let done = self.done();
                        if let Some(log) = &mut log {
                            log.confirm(done).await?;
                            self.look().await?;
                        }
                    }
                }
            }
        }
        Ok(Ok(()))
    }
}
