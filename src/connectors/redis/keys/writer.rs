//! Writes keys: payloads several pipelines at a time, pieces of large values in their order.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, PrimitiveArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use redis::Value as Reply;
use tokio_util::task::AbortOnDropHandle;

use super::sink::{KeysTarget, is_busy};
use super::value::{self, Value};
use super::{compare, shown};
use crate::clock;
use crate::connectors::redis::reply::{good, integer};
use crate::connectors::redis::{Command, Version};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::define::pipeline::Conflict;
use crate::failure::Failure;
use crate::tasks;

/// Batches that are on their way to the server at the same time.
const AHEAD: usize = 3;
/// Keys in conflict that are named.
const NAMED: usize = 5;

/// A key to write.
struct Key<'a> {
    /// Its name in the target.
    name: Vec<u8>,
    /// Milliseconds since 1970; `None` for never.
    expires_at: Option<i64>,
    value: Value<'a>,
}

/// Writes the keys of one split.
pub(super) struct KeysWriter {
    work: Arc<Work>,
    /// The mark that the next one takes the place of.
    before: Option<Mark>,
    sending: VecDeque<AbortOnDropHandle<Result<u64, Failure>>>,
    bytes: u64,
}

/// What every batch of a writer needs.
struct Work {
    target: KeysTarget,
    load: Load,
    key: usize,
    expires_at: usize,
    value: usize,
    version: Version,
}

impl KeysWriter {
    pub(super) async fn new(target: KeysTarget, load: Load, from: Option<&Mark>) -> Result<Self, Failure> {
        let place = |name: &str| {
            let found = load.schema.find(name).map(|(place, _)| place);
            found.ok_or_else(|| Failure::permanent(format!("the keys come without `{name}`")))
        };
        let (key, expires_at, value) = (place("key")?, place("expires_at")?, place("value")?);
        let version = target.server.facts().await?.version;
        let work = Arc::new(Work { target, load, key, expires_at, value, version });
        Ok(Self { work, before: from.cloned(), sending: VecDeque::new(), bytes: 0 })
    }

    /// Waits until no more than so many batches are on their way.
    async fn settle(&mut self, most: usize) -> Result<(), Failure> {
        while self.sending.len() > most {
            let Some(oldest) = self.sending.pop_front() else { break };
            let sent = oldest.await.map_err(|_| Failure::cancelled())?;
            self.bytes += sent?;
        }
        Ok(())
    }

    async fn record(&mut self, mark: Mark) -> Result<Committed, Failure> {
        self.settle(0).await?;
        self.work.target.server.replicated().await?;
        let marks = self.work.target.marks(&self.work.load.key);
        marks.advance(self.work.load.epoch, self.before.as_ref(), &mark).await?;
        marks.committed(&mark);
        let committed = Committed { rows: mark.rows, bytes: std::mem::take(&mut self.bytes) };
        self.before = Some(mark);
        Ok(committed)
    }
}

#[async_trait]
impl Writer for KeysWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let values = batch.column(self.work.value).as_binary::<i32>();
        let whole = |value: &[u8]| matches!(Value::read(value), Ok(Value::Dump(_) | Value::Piece { first: true, last: true, .. }));
        let in_order = values.iter().flatten().any(|value| !whole(value));
        // Pieces of one key follow each other; nothing else may be on its way beside them.
        self.settle(if in_order { 0 } else { AHEAD - 1 }).await?;
        let work = Arc::clone(&self.work);
        self.sending.push_back(tasks::start(async move { work.write(&batch).await }));
        if in_order { self.settle(0).await } else { Ok(()) }
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        self.record(mark).await
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        self.record(mark).await
    }
}

impl Work {
    /// Writes a batch. Gives the bytes of its values.
    async fn write(&self, batch: &RecordBatch) -> Result<u64, Failure> {
        let keys = self.keys(batch)?;
        let bytes = keys.iter().map(|key| key.bytes()).sum();
        let (payloads, pieces): (Vec<&Key<'_>>, Vec<&Key<'_>>) = keys.iter().partition(|key| matches!(key.value, Value::Dump(_)));
        self.payloads(&payloads).await?;
        self.pieces(&pieces).await?;
        Ok(bytes)
    }

    fn keys<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Key<'a>>, Failure> {
        let names: &BinaryArray = batch.column(self.key).as_binary();
        let times: &PrimitiveArray<TimestampMicrosecondType> = batch.column(self.expires_at).as_primitive();
        let values: &BinaryArray = batch.column(self.value).as_binary();
        (0..batch.num_rows())
            .map(|row| {
                let expires_at = (!times.is_null(row)).then(|| times.value(row).div_euclid(1000).max(1));
                Ok(Key { name: self.target.name(names.value(row))?, expires_at, value: Value::read(values.value(row))? })
            })
            .collect()
    }

    async fn payloads(&self, keys: &[&Key<'_>]) -> Result<(), Failure> {
        let now = clock::now_ms();
        // Whether RESTORE takes instants of expiry.
        let absolute = self.version >= Version(5, 0, 0);
        let mut commands = Vec::with_capacity(keys.len());
        for key in keys {
            let Value::Dump(payload) = key.value else { continue };
            let ttl = match key.expires_at {
                None => 0,
                Some(instant) if absolute => instant,
                Some(instant) => (instant - now).max(1),
            };
            let mut command = Command::new("RESTORE").key(&key.name).arg(ttl).arg(payload);
            if self.target.spec.conflict == Conflict::Replace {
                command = command.arg("REPLACE");
            }
            commands.push(if absolute { command.arg("ABSTTL") } else { command });
        }
        let replies = self.target.server.call(&commands).await?;
        drop(commands);
        let mut busy = Vec::new();
        for (key, reply) in keys.iter().zip(replies) {
            if is_busy(&reply) {
                busy.push(*key);
            } else {
                good(reply).map_err(|failure| failed(&key.name, failure))?;
            }
        }
        match self.target.spec.conflict {
            Conflict::Error if !busy.is_empty() => self.must_hold_the_same(&busy).await,
            _ => Ok(()),
        }
    }

    /// Whole values go into a temporary key and take their place in one step; of larger ones, each piece adds to the temporary key.
    async fn pieces(&self, keys: &[&Key<'_>]) -> Result<(), Failure> {
        let mut commands = Vec::new();
        let mut ends = Vec::with_capacity(keys.len());
        for key in keys {
            self.piece(key, &mut commands)?;
            ends.push(commands.len());
        }
        let mut replies = self.target.server.call(&commands).await?.into_iter();
        drop(commands);
        let mut busy = Vec::new();
        let mut start = 0;
        for (key, end) in keys.iter().zip(ends) {
            let mut replies: Vec<Reply> = replies.by_ref().take(end - start).collect();
            start = end;
            let Value::Piece { last, .. } = key.value else { continue };
            let renamed = if last { replies.pop() } else { None };
            for reply in replies {
                good(reply).map_err(|failure| failed(&key.name, failure))?;
            }
            match renamed.map(|reply| self.renamed(key, reply)) {
                None | Some(Ok(true)) => {}
                Some(Ok(false)) => busy.push(*key),
                Some(Err(failure)) => return Err(failed(&key.name, failure)),
            }
        }
        if busy.is_empty() {
            return Ok(());
        }
        if self.target.spec.conflict == Conflict::Error {
            self.must_hold_the_same(&busy).await?;
        }
        let leave: Vec<Command> = busy.iter().map(|key| Command::new("DEL").key(&self.temporary(key))).collect();
        self.target.server.call(&leave).await.map(drop)
    }

    fn temporary(&self, key: &Key<'_>) -> Vec<u8> {
        KeysTarget::temporary(&self.load.key, &key.name)
    }

    fn piece(&self, key: &Key<'_>, commands: &mut Vec<Command>) -> Result<(), Failure> {
        let Value::Piece { first, last, commands: kept } = key.value else { return Ok(()) };
        let temporary = self.temporary(key);
        if first {
            commands.push(Command::new("DEL").key(&temporary));
        }
        commands.extend(value::commands(kept)?.iter().map(|(name, words)| value::for_key(name, words, &temporary, self.version)));
        if last {
            if let Some(instant) = key.expires_at {
                commands.push(Command::new("PEXPIREAT").key(&temporary).arg(instant));
            }
            let rename = if self.target.spec.conflict == Conflict::Replace { "RENAME" } else { "RENAMENX" };
            commands.push(Command::new(rename).key(&temporary).key(&key.name));
        }
        Ok(())
    }

    /// Whether a temporary key took its place; false when there is a key of that name already.
    fn renamed(&self, key: &Key<'_>, reply: Reply) -> Result<bool, Failure> {
        match reply {
            // It expired on the way.
            Reply::ServerError(error) if key.expires_at.is_some() && error.details().is_some_and(|text| text.contains("no such key")) => {
                Ok(true)
            }
            Reply::Int(taken) => Ok(taken == 1),
            other => good(other).map(|_| true),
        }
    }

    /// Fails unless the keys that are there hold what was to be written: then an earlier attempt wrote them.
    async fn must_hold_the_same(&self, busy: &[&Key<'_>]) -> Result<(), Failure> {
        let mut others = Vec::new();
        for key in busy {
            let temporary = self.temporary(key);
            if let Value::Dump(payload) = key.value {
                // The server unpacks the payload beside the key, for as long as it takes to compare them.
                let restore = Command::new("RESTORE").key(&temporary).arg(60_000).arg(payload).arg("REPLACE");
                good(self.target.server.call(&[restore]).await?.pop().unwrap_or_default())?;
            }
            let same = compare::same_keys(&self.target.server, &temporary, &key.name, key.expires_at).await?;
            let remove = Command::new("DEL").key(&temporary);
            integer(self.target.server.call(&[remove]).await?.pop().unwrap_or_default())?;
            if let Some(what) = same {
                others.push(format!("{} ({what})", shown(&key.name)));
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        let count = others.len();
        others.truncate(NAMED);
        let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
        let message = format!("`{}` has other keys of the same names already: {}{more}", self.target.server.name(), others.join(", "));
        Err(Failure::permanent(message).help("write `conflict: replace` or `conflict: skip`, or give keys other names with `key:`"))
    }
}

impl Key<'_> {
    fn bytes(&self) -> u64 {
        let value = match self.value {
            Value::Dump(payload) => payload.len(),
            Value::Piece { commands, .. } => commands.len(),
        };
        (self.name.len() + value) as u64
    }
}

fn failed(key: &[u8], failure: Failure) -> Failure {
    let failure = failure.during(format_args!("key {}", shown(key)));
    if failure.message.contains("version or checksum") || failure.message.contains("Bad data format") {
        return failure.help("the target does not understand this payload: write `copy: commands`");
    }
    failure
}
