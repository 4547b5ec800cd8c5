//! One split's rows → keys, each written once.
//!
//! Where all keys are on one node, commands go out in transactions on a connection of the writer's own. The transaction watches the load's
//! epoch and the split's turn: once a newer worker has claimed the load, or another attempt has written, the server refuses it. What can be
//! repeated goes out in parts, the last of them with the mark; what is appended goes out as one transaction, which the server keeps open until
//! the mark comes, so that a writer that goes away leaves nothing. Over a cluster commands that can be repeated go to the nodes of their keys,
//! and the mark follows them.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use redis::Value;

use super::changes::Changes;
use super::encode::{Encoder, Written};
use super::proof::Proofs;
use super::reading::type_name;
use super::target::Route;
use crate::clock;
use crate::connectors::redis::reply::{good, items, text};
use crate::connectors::redis::{Command, Lease, Marks, Server};
use crate::connectors::{Committed, Load, Mark, Writer, moved_on};
use crate::data::change;
use crate::define::pipeline::{RedisRows, RedisRowsSink, RowMode, RowShape, Verify};
use crate::failure::{Failure, FailureKind};

/// Bytes of commands that are carried out in one part, where a split may be written in parts.
const PART_BYTES: usize = 2 << 20;
/// Commands of one part.
const PART_COMMANDS: usize = 8_000;
/// Bytes of an appended split that a server is asked to keep until it is whole.
const MOST_APPENDED: u64 = 1 << 30;
/// Bytes of changes that are held until their mark comes, where a part may be written before.
const MOST_HELD: usize = 16 << 20;

/// Where rows and marks go.
pub(super) struct Place {
    /// The server.
    pub server: Arc<Server>,
    /// How they get there.
    pub route: Route,
    /// The records of the load.
    pub marks: Marks,
}

/// Writes one split.
pub(super) struct RowWriter {
    server: Arc<Server>,
    encoder: Encoder,
    shape: RowShape,
    mode: RowMode,
    prove: bool,
    marks: Marks,
    epoch: u64,
    split: String,
    /// The mark that the next one takes the place of.
    before: Option<Mark>,
    channel: Channel,
    /// The keys of the load, as an input would name them.
    keys: RedisRows,
    changes: Changes,
    /// Encoded, and not sent yet.
    waiting: Vec<(Vec<u8>, Written)>,
    waiting_bytes: usize,
    waiting_commands: usize,
    /// Since the last mark.
    rows: u64,
    bytes: u64,
    /// Items that the open transaction adds.
    appended: usize,
}

/// How commands go out.
enum Channel {
    /// In transactions on one node.
    Transactions { lease: Option<Lease>, open: bool },
    /// To the nodes of their keys.
    Spread,
}

impl RowWriter {
    /// Connects to nothing yet.
    pub(super) fn new(
        to: Place,
        spec: &RedisRowsSink,
        keys: RedisRows,
        load: &Load,
        split: &str,
        before: Option<Mark>,
    ) -> Result<Self, Failure> {
        let channel = match to.route {
            Route::Transactions(_) => Channel::Transactions { lease: None, open: false },
            Route::Spread => Channel::Spread,
        };
        Ok(Self {
            encoder: Encoder::new(spec, &load.schema)?,
            shape: spec.shape,
            mode: spec.mode,
            prove: load.verify == Verify::Digest && spec.mode != RowMode::Append,
            server: to.server,
            marks: to.marks,
            epoch: load.epoch,
            split: split.to_owned(),
            before,
            channel,
            keys,
            changes: Changes::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            waiting_commands: 0,
            rows: 0,
            bytes: 0,
            appended: 0,
        })
    }

    fn appends(&self) -> bool {
        self.mode == RowMode::Append
    }

    /// Sends what waits. With a mark, it is recorded with the last rows.
    async fn flush(&mut self, mark: Option<&Mark>) -> Result<(), Failure> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.waiting_commands = 0;
        if !self.changes.is_empty() {
            let node = self.marks.node().await?;
            waiting.extend(self.changes.settle(&self.encoder, &self.server, mark.is_some(), &self.keys, &node).await?);
        }
        self.check_types(&waiting).await?;
        match &self.channel {
            Channel::Spread => self.spread(waiting, mark).await,
            Channel::Transactions { .. } => self.transact(waiting, mark).await,
        }
    }

    /// A command that meets a key of another type fails while the others of its transaction are carried out: such keys are found before.
    async fn check_types(&self, waiting: &[(Vec<u8>, Written)]) -> Result<(), Failure> {
        if self.mode == RowMode::Replace || waiting.is_empty() {
            return Ok(());
        }
        let wanted = type_name(self.shape);
        let commands: Vec<Command> = waiting.iter().map(|(key, _)| Command::new("TYPE").key(key)).collect();
        for ((key, _), reply) in waiting.iter().zip(self.server.call(&commands).await?) {
            let found = text(reply)?;
            if found != wanted && found != "none" {
                let key = String::from_utf8_lossy(key);
                return Err(Failure::permanent(format!("the key `{key}` holds a {found}, and a {wanted} is to be written"))
                    .help("remove the key, or write to another one"));
            }
        }
        Ok(())
    }

    async fn spread(&mut self, waiting: Vec<(Vec<u8>, Written)>, mark: Option<&Mark>) -> Result<(), Failure> {
        let found = self.marks.standing(&self.split).await?.epoch;
        if found != self.epoch {
            return Err(self.marks.not_owned(self.epoch, found));
        }
        let (mut commands, proofs) = self.commands(waiting);
        let writes = commands.len();
        commands.extend(proofs.commands(self.shape));
        let mut replies = all_good(self.server.call(&commands).await?)?;
        proofs.compare(replies.split_off(writes))?;
        match mark {
            Some(mark) => {
                self.server.replicated().await?;
                self.marks.advance(self.epoch, self.before.as_ref(), mark).await
            }
            None => Ok(()),
        }
    }

    /// The commands of some keys, and the keys that are proved.
    fn commands(&mut self, waiting: Vec<(Vec<u8>, Written)>) -> (Vec<Command>, Proofs) {
        let mut commands = Vec::with_capacity(waiting.len() * 2);
        let mut proofs = Proofs::default();
        for (key, written) in waiting {
            self.appended += written.appended;
            commands.extend(written.commands);
            if let Some(expected) = written.expected {
                proofs.add(key, expected, written.expires_ms);
            }
        }
        (commands, proofs)
    }

    async fn transact(&mut self, waiting: Vec<(Vec<u8>, Written)>, mark: Option<&Mark>) -> Result<(), Failure> {
        let (writes, proofs) = self.commands(waiting);
        let last = mark.is_some() || !self.appends();
        let proving = proofs.commands(self.shape);
        let mut commands = Vec::with_capacity(writes.len() + proving.len() + 4);
        let begins = !matches!(self.channel, Channel::Transactions { open: true, .. });
        if begins {
            self.begin().await?;
            commands.push(Command::new("MULTI"));
        }
        let written = writes.len();
        commands.extend(writes);
        commands.extend(proving);
        if let Some(mark) = mark {
            commands.push(self.marks.record(self.epoch, mark)?);
        }
        if last {
            commands.extend([self.marks.take_turn(&self.split), Command::new("EXEC")]);
        }
        let Channel::Transactions { lease, open, .. } = &mut self.channel else { return Ok(()) };
        let Some(connection) = lease else { return Err(Failure::permanent("a transaction has no connection")) };
        let mut replies = connection.send(&commands).await?;
        *open = !last;
        let result = if last { replies.pop() } else { None };
        // What is queued answers with QUEUED; a refusal makes the server drop the transaction.
        all_good(replies)?;
        let Some(result) = result else { return Ok(()) };
        if result == Value::Nil {
            // What was watched has changed: the epoch, or the turn.
            let found = self.marks.standing(&self.split).await?.epoch;
            return Err(if found == self.epoch { moved_on(&self.split) } else { self.marks.not_owned(self.epoch, found) });
        }
        let mut answers = all_good(items(result)?)?;
        answers.truncate(answers.len() - usize::from(mark.is_some()) - 1);
        if self.appends() {
            return self.counted(&answers);
        }
        proofs.compare(answers.split_off(written.min(answers.len())))
    }

    /// Begins a transaction on a connection of the writer's own.
    async fn begin(&mut self) -> Result<(), Failure> {
        let node = self.marks.node().await?;
        let Channel::Transactions { lease, .. } = &mut self.channel else { return Ok(()) };
        let connection = match lease {
            Some(connection) => connection,
            None => lease.insert(self.server.lend(&node).await?),
        };
        self.marks.watch(connection, self.epoch, &self.split, self.before.as_ref()).await
    }

    /// Writes what waits together with a mark. Whether a commit whose answer was lost took place is told by the mark that is found.
    async fn mark(&mut self, mark: &Mark) -> Result<Committed, Failure> {
        if mark.split != self.split {
            return Err(Failure::permanent(format!("a mark of split `{}` came for split `{}`", mark.split, self.split)));
        }
        let committed = Committed { rows: self.rows, bytes: self.bytes };
        if let Err(failure) = self.flush(Some(mark)).await {
            if failure.kind != FailureKind::Transient {
                return Err(failure);
            }
            // A connection of one's own was lost, or its node is not the master any more.
            self.server.doubt();
            match self.marks.standing(&self.split).await {
                Ok(standing) if standing.epoch == self.epoch && standing.mark.as_ref() == Some(mark) => {}
                _ => return Err(failure),
            }
            if let Channel::Transactions { lease, open, .. } = &mut self.channel {
                (*lease, *open) = (None, false);
            }
        }
        self.marks.replicated().await?;
        self.marks.committed(mark);
        (self.rows, self.bytes, self.appended) = (0, 0, 0);
        self.before = Some(mark.clone());
        Ok(committed)
    }

    async fn change(&mut self, batch: &RecordBatch, changes: change::Changes<'_>) -> Result<(), Failure> {
        // Values that changes leave out are looked for on the server.
        if !self.waiting.is_empty() {
            self.flush(None).await?;
        }
        let before = self.changes.bytes();
        self.changes.take(&self.encoder, batch, changes, clock::now_ms())?;
        self.bytes += self.changes.bytes().saturating_sub(before) as u64;
        if self.changes.bytes() > MOST_HELD { self.flush(None).await } else { Ok(()) }
    }

    /// The server's own count of what a transaction added.
    fn counted(&self, answers: &[Value]) -> Result<(), Failure> {
        // A list answers with its length, a stream with the id of the new entry, and either only when it was added.
        let added = answers.iter().filter(|answer| matches!(answer, Value::Int(_) | Value::BulkString(_))).count();
        let wanted = if self.shape == RowShape::Stream { self.appended } else { usize::from(self.appended > 0) };
        if added >= wanted {
            return Ok(());
        }
        Err(Failure::permanent(format!("{wanted} entries were sent, and {added} added")))
    }
}

#[async_trait]
impl Writer for RowWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        self.rows += batch.num_rows() as u64;
        if let Some(changes) = change::Changes::of(&batch) {
            return self.change(&batch, changes).await;
        }
        for (key, written) in self.encoder.encode(&batch, self.prove)? {
            let bytes = written.commands.iter().map(Command::bytes).sum::<usize>();
            self.waiting_bytes += bytes;
            self.waiting_commands += written.commands.len();
            self.bytes += bytes as u64;
            self.waiting.push((key, written));
            if self.appends() && self.bytes > MOST_APPENDED {
                return Err(Failure::permanent(format!(
                    "the split is larger than {} MiB, and is appended as a whole",
                    MOST_APPENDED >> 20
                ))
                .help("cut the source into smaller splits with `splits: { bytes: 64MiB }`"));
            }
            if self.waiting_bytes >= PART_BYTES || self.waiting_commands >= PART_COMMANDS {
                self.flush(None).await?;
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        self.mark(&mark).await
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        let standing = self.marks.standing(&self.split).await?;
        if standing.epoch != self.epoch {
            return Err(self.marks.not_owned(self.epoch, standing.epoch));
        }
        if standing.mark.as_ref().is_some_and(|mark| mark.position.is_none()) {
            self.marks.replicated().await?;
            return Ok(Committed { rows: self.rows, bytes: self.bytes });
        }
        if standing.published {
            return Err(Failure::permanent("the load is published already"));
        }
        self.mark(&mark).await
    }
}

/// The answers to commands of which none may fail.
fn all_good(replies: Vec<Value>) -> Result<Vec<Value>, Failure> {
    replies.into_iter().map(good).collect()
}
