//! Reads the copy and then the log, and makes batches of changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use sqlx::Row;
use tokio::sync::mpsc;

use super::pgoutput::{Message, Tuple, Value};
use super::place::{Copied, Place};
use super::slot::Slot;
use super::{Followed, place};
use crate::clock;
use crate::connectors::sql::postgres::decode::Decoder;
use crate::connectors::sql::postgres::error::failure;
use crate::connectors::sql::postgres::read;
use crate::connectors::sql::postgres::session::{Pool, Session, Use};
use crate::data::{BatchLimit, Chunk, Lag, Schema, change};
use crate::failure::Failure;

/// The wait between two questions when nothing is new.
const IDLE: Duration = Duration::from_millis(100);

/// Messages that one question asks for: every question reads the log from the last restart point of the slot, so that a stream which is
/// behind asks for more each time.
const FEWEST: usize = 10_000;
const MOST: usize = 1_000_000;

/// From 1970 to 2000, from which PostgreSQL counts.
const EPOCH_US: i64 = 946_684_800_000_000;

pub(super) struct Reader {
    pool: Arc<Pool>,
    followed: Followed,
    slot: Slot,
    limit: BatchLimit,
    done: Arc<AtomicU64>,
    send: mpsc::Sender<Result<Chunk, Failure>>,
    /// Of batches.
    schema: Schema,
    decoder: Decoder,
    tuple: Vec<u8>,
    /// Everything that was committed before has been handed on.
    lsn: u64,
    copied: Option<Copied>,
    /// For each column of the table, its place in the tuples of the log.
    relation: Vec<Option<usize>>,
    /// How far the slot has been advanced.
    advanced: u64,
    most: usize,
}

/// Nobody takes chunks any more.
struct Closed;

impl Reader {
    pub(super) fn new(
        pool: Arc<Pool>,
        followed: Followed,
        slot: Slot,
        limit: BatchLimit,
        done: Arc<AtomicU64>,
        send: mpsc::Sender<Result<Chunk, Failure>>,
    ) -> Result<Self, Failure> {
        let (schema, types) = followed.wire();
        let decoder = Decoder::new(&schema, &types, &followed.key_names, limit, followed.label.clone())?;
        let (tuple, relation) = (Vec::new(), Vec::new());
        Ok(Self {
            pool,
            followed,
            slot,
            limit,
            done,
            send,
            schema,
            decoder,
            tuple,
            lsn: 0,
            copied: None,
            relation,
            advanced: 0,
            most: FEWEST,
        })
    }

    /// Follows until nobody listens, or something fails.
    pub(super) async fn run(mut self, from: Option<(u64, Option<Copied>)>) {
        let followed = async {
            match from {
                Some((lsn, copied)) => (self.lsn, self.copied) = (lsn, copied),
                None => self.copy().await?,
            }
            self.follow().await
        };
        if let Err(failure) = followed.await {
            // Nobody waits for the failure when the queue is closed.
            let _ = self.send.send(Err(failure)).await;
        }
    }

    async fn hand_on(&self, chunk: Chunk) -> Result<(), Closed> {
        self.send.send(Ok(chunk)).await.map_err(|_| Closed)
    }

    fn empty(&self) -> Chunk {
        Chunk::of(RecordBatch::new_empty(self.schema.to_arrow()))
    }

    /// Makes the slot, and hands the table on as it is after that. Only its end is a position.
    async fn copy(&mut self) -> Result<(), Failure> {
        let mut session = self.pool.session(Use::View).await?;
        self.slot.make(&mut session, &self.followed.table).await?;
        session.run("begin isolation level repeatable read read only").await?;
        let row = sqlx::query(
            "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1",
        );
        let row = row.bind(&self.slot.name).fetch_one(session.raw()).await.map_err(failure)?;
        let text = |place: usize| row.try_get::<String, _>(place).map_err(failure);
        self.copied = Some(Copied { snapshot: text(0)?, until: text(1)? });
        self.lsn = place::parse(&text(2)?)?;
        let (_, types) = self.followed.wire();
        let decoder = Decoder::new(&self.schema, &types, &self.followed.key_names, self.limit, self.followed.label.clone())?;
        let mut rows = read::batches(session, self.followed.copy()?, decoder);
        let mut last = self.empty();
        let mut held: Option<Chunk> = None;
        while let Some(chunk) = rows.next().await {
            if let Some(earlier) = held.replace(chunk?)
                && self.hand_on(earlier).await.is_err()
            {
                return Ok(());
            }
        }
        last = held.unwrap_or(last);
        last.position = Some(Place::new(self.lsn, self.copied.as_ref()).position()?);
        let _ = self.hand_on(last).await;
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        self.slot.check(&mut session).await?;
        session.release();
        loop {
            // Given back each time: streams that wait hold no connection.
            let mut session = self.pool.session(Use::Read).await?;
            let done = self.done.load(Ordering::Relaxed);
            if done > self.advanced {
                self.slot.advance(&mut session, done).await?;
                self.advanced = done;
            }
            let Ok(more) = self.ask(&mut session).await? else { return Ok(()) };
            session.release();
            if !more {
                tokio::select! {
                    () = tokio::time::sleep(IDLE) => {}
                    () = self.send.closed() => return Ok(()),
                }
            }
        }
    }

    /// Asks for the next messages and hands on what they say. True when more is waiting.
    async fn ask(&mut self, session: &mut Session) -> Result<Result<bool, Closed>, Failure> {
        let (end, decodable) = Slot::end_of_log(session).await?;
        let (mut messages, mut skipped, mut at_us) = (0, true, None);
        let mut rows = sqlx::query(self.slot.peek(self.most)).persistent(false).fetch(session.raw());
        while let Some(row) = rows.next().await {
            let row = row.map_err(failure)?;
            let data: &[u8] = row.try_get(0).map_err(failure)?;
            messages += 1;
            match Message::read(data)? {
                Message::Begin { end, xid } => {
                    let copied = self.copied.as_ref().map(|copied| copied.holds(xid, end)).transpose()?;
                    skipped = end < self.lsn || copied == Some(true);
                }
                Message::Commit { after, at_us: committed } => {
                    self.lsn = self.lsn.max(after);
                    if !skipped {
                        at_us = Some(committed);
                    }
                    if self.decoder.is_full() && self.flush(Some(self.lag(true, end, at_us))).await?.is_err() {
                        return Ok(Err(Closed));
                    }
                }
                Message::Relation { name, columns } => self.take_relation(name, &columns)?,
                _ if skipped => {}
                message => {
                    self.take(message)?;
                    // In the middle of a transaction a batch has no position: nothing of it is committed before its end.
                    if self.decoder.is_full() && self.hand_on_part().await?.is_err() {
                        return Ok(Err(Closed));
                    }
                }
            }
        }
        let more = messages >= self.most;
        self.most = if more { (self.most * 2).min(MOST) } else { FEWEST };
        if !more && decodable {
            // What was committed before the question has all been said; the log may have moved on by what concerns other tables.
            self.lsn = self.lsn.max(end);
        }
        let lag = self.lag(more, end, at_us);
        Ok(self.flush(Some(lag)).await?.map(|()| more))
    }

    fn lag(&self, more: bool, end: u64, at_us: Option<i64>) -> Lag {
        let behind = |at_us: i64| (clock::now_ms() - (at_us + EPOCH_US) / 1000).max(0).unsigned_abs();
        Lag {
            caught_up: !more,
            behind_ms: if more { at_us.map(behind) } else { Some(0) },
            bytes: Some(if more { end.saturating_sub(self.lsn) } else { 0 }),
        }
    }

    /// Hands on everything so far, and the position it brings the stream to.
    async fn flush(&mut self, lag: Option<Lag>) -> Result<Result<(), Closed>, Failure> {
        let mut chunk = if self.decoder.is_empty() { self.empty() } else { self.decoder.finish()? };
        chunk.position = Some(Place::new(self.lsn, self.copied.as_ref()).position()?);
        chunk.lag = lag;
        Ok(self.hand_on(chunk).await)
    }

    async fn hand_on_part(&mut self) -> Result<Result<(), Closed>, Failure> {
        let chunk = self.decoder.finish()?;
        Ok(self.hand_on(chunk).await)
    }

    fn take_relation(&mut self, name: &str, columns: &[&str]) -> Result<(), Failure> {
        let known = |column: &&str| self.followed.schema.find(column).is_some();
        if let Some(added) = columns.iter().find(|column| !known(column)) {
            return Err(Failure::permanent(format!("the table {name} has got a column `{added}`, which the plan does not know"))
                .help("run again, so that a new plan is made; `schema: evolve` in the output adds the column to the target"));
        }
        let place = |column: &crate::data::Column| columns.iter().position(|name| *name == column.name);
        self.relation = self.followed.schema.columns.iter().map(place).collect();
        Ok(())
    }

    fn take(&mut self, message: Message<'_>) -> Result<(), Failure> {
        match message {
            Message::Insert(new) => self.put(&new),
            Message::Update { old, new } => {
                if let Some(old) = old.filter(|old| self.other_key(old, &new)) {
                    self.gone(change::MOVED, &old)?;
                }
                self.put(&new)
            }
            Message::Delete(old) => self.gone(change::GONE, &old),
            Message::Truncate => self.row(change::EMPTIED, None, |_| Value::Null),
            _ => Ok(()),
        }
    }

    fn value<'a>(&self, tuple: &Tuple<'a>, column: usize) -> Value<'a> {
        // A column that the table did not have yet is left as it is.
        self.relation.get(column).copied().flatten().and_then(|place| tuple.get(place).copied()).unwrap_or(Value::Unchanged)
    }

    fn other_key(&self, old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
        self.followed.key.iter().any(|&column| self.value(old, column) != self.value(new, column))
    }

    fn put(&mut self, new: &Tuple<'_>) -> Result<(), Failure> {
        let values: Vec<Value<'_>> = (0..self.followed.schema.columns.len()).map(|column| self.value(new, column)).collect();
        let mut kept = String::new();
        for (column, _) in values.iter().enumerate().filter(|(_, value)| **value == Value::Unchanged) {
            kept.push_str(if kept.is_empty() { "," } else { "" });
            kept.push_str(&format!("{column},"));
        }
        self.row(change::PUT, Some(kept).filter(|kept| !kept.is_empty()), |column| values[column])
    }

    fn gone(&mut self, what: &str, old: &Tuple<'_>) -> Result<(), Failure> {
        let key = self.followed.key.clone();
        let values: Vec<Value<'_>> = key.iter().map(|&column| self.value(old, column)).collect();
        self.row(what, None, |column| key.iter().position(|place| *place == column).map_or(Value::Null, |place| values[place]))
    }

    /// Adds a row in the form of COPY, which is that of the log but for the frame of each value.
    fn row<'a>(&mut self, what: &str, kept: Option<String>, value: impl Fn(usize) -> Value<'a>) -> Result<(), Failure> {
        let count = self.followed.schema.columns.len();
        self.tuple.clear();
        self.tuple.extend_from_slice(&(count as u16 + 2).to_be_bytes());
        let mut add = |value: Option<&[u8]>| match value {
            Some(bytes) => {
                self.tuple.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
                self.tuple.extend_from_slice(bytes);
            }
            None => self.tuple.extend_from_slice(&(-1_i32).to_be_bytes()),
        };
        for column in 0..count {
            match value(column) {
                Value::Binary(bytes) => add(Some(bytes)),
                Value::Null | Value::Unchanged => add(None),
            }
        }
        add(Some(what.as_bytes()));
        add(kept.as_deref().map(str::as_bytes));
        self.decoder.tuple(&self.tuple)
    }
}
