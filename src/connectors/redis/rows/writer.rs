//! One split's rows → keys, each written once.
//!
//! Where all keys are on one node, commands go out in transactions on a connection of the writer's own. The transaction watches the load's
//! epoch: once a newer worker has claimed the load, the server refuses it. What can be repeated goes out in parts, the last of them with the
//! mark; what is appended goes out as one transaction, which the server keeps open until the split is whole, so that a writer that goes away
//! leaves nothing. Over a cluster commands that can be repeated go to the nodes of their keys, and the mark follows them.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use redis::Value;

use super::encode::{Encoder, Expected, Written};
use super::reading::type_name;
use super::target::Route;
use crate::clock;
use crate::connectors::redis::reply::{bytes, good, integer, items, text};
use crate::connectors::redis::{Command, Lease, Marks, Server, slot};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::define::pipeline::{RedisRowsSink, RowMode, RowShape, Verify};
use crate::failure::{Failure, FailureKind};

/// Bytes of commands that are carried out in one part, where a split may be written in parts.
const PART_BYTES: usize = 2 << 20;
/// Commands of one part.
const PART_COMMANDS: usize = 8_000;
/// Bytes of an appended split that a server is asked to keep until it is whole.
const MOST_APPENDED: u64 = 1 << 30;

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
    channel: Channel,
    /// Encoded, and not sent yet.
    waiting: Vec<(Vec<u8>, Written)>,
    waiting_bytes: usize,
    waiting_commands: usize,
    rows: u64,
    bytes: u64,
    /// Items that the open transaction adds.
    appended: usize,
}

/// How commands go out.
enum Channel {
    /// In transactions on one node.
    Transactions { slot: Option<u16>, lease: Option<Lease>, open: bool },
    /// To the nodes of their keys.
    Spread,
}

/// A key to be read back.
struct Proof {
    key: Vec<u8>,
    expected: Expected,
    /// When it expires, in milliseconds since 1970, where the load says so.
    expires_ms: Option<i64>,
}

impl RowWriter {
    /// Connects to nothing yet.
    pub(super) fn new(
        server: Arc<Server>,
        spec: &RedisRowsSink,
        route: Route,
        marks: Marks,
        load: &Load,
        split: &str,
    ) -> Result<Self, Failure> {
        let channel = match route {
            Route::Transactions(slot) => Channel::Transactions { slot, lease: None, open: false },
            Route::Spread => Channel::Spread,
        };
        Ok(Self {
            encoder: Encoder::new(spec, &load.schema)?,
            shape: spec.shape,
            mode: spec.mode,
            prove: load.verify == Verify::Digest && spec.mode != RowMode::Append,
            server,
            marks,
            epoch: load.epoch,
            split: split.to_owned(),
            channel,
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
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.waiting_commands = 0;
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
        if self.marks.standing(&self.split).await?.epoch != self.epoch {
            return Err(self.marks.fenced());
        }
        let (mut commands, proofs) = self.commands(waiting);
        let writes = commands.len();
        commands.extend(proofs.iter().flat_map(|proof| self.proving(proof)));
        let mut replies = all_good(self.server.call(&commands).await?)?;
        self.compare(&proofs, replies.split_off(writes))?;
        match mark {
            Some(mark) => self.marks.commit(self.epoch, mark).await,
            None => Ok(()),
        }
    }

    /// The commands of some keys, and the keys that are proved.
    fn commands(&mut self, waiting: Vec<(Vec<u8>, Written)>) -> (Vec<Command>, Vec<Proof>) {
        let mut commands = Vec::with_capacity(waiting.len() * 2);
        let mut proofs = Vec::new();
        for (key, written) in waiting {
            self.appended += written.appended;
            commands.extend(written.commands);
            proofs.extend(written.expected.map(|expected| Proof { key, expected, expires_ms: written.expires_ms }));
        }
        (commands, proofs)
    }

    async fn transact(&mut self, waiting: Vec<(Vec<u8>, Written)>, mark: Option<&Mark>) -> Result<(), Failure> {
        let (writes, proofs) = self.commands(waiting);
        let last = mark.is_some() || !self.appends();
        let mut commands = Vec::with_capacity(writes.len() + proofs.len() + 3);
        let begins = !matches!(self.channel, Channel::Transactions { open: true, .. });
        if begins {
            self.watch().await?;
            commands.push(Command::new("MULTI"));
        }
        let written = writes.len();
        commands.extend(writes);
        commands.extend(proofs.iter().flat_map(|proof| self.proving(proof)));
        if let Some(mark) = mark {
            commands.push(self.marks.record(self.epoch, mark)?);
        }
        if last {
            commands.push(Command::new("EXEC"));
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
            // The epoch has changed since it was watched.
            return Err(self.marks.fenced());
        }
        let mut answers = all_good(items(result)?)?;
        if self.appends() {
            return self.counted(&answers);
        }
        answers.truncate(answers.len() - usize::from(mark.is_some()));
        self.compare(&proofs, answers.split_off(written.min(answers.len())))
    }

    /// Watches the load's epoch on a connection of the writer's own.
    async fn watch(&mut self) -> Result<(), Failure> {
        let Channel::Transactions { slot: shared, lease, .. } = &mut self.channel else { return Ok(()) };
        if lease.is_none() {
            let topology = self.server.topology().await?;
            let master = topology.master(shared.unwrap_or_else(|| slot(self.marks.epoch_key())));
            let master = master.ok_or_else(|| Failure::transient("the slot of the keys has no master"))?;
            *lease = Some(self.server.lend(&master.address).await?);
        }
        let Some(connection) = lease else { return Ok(()) };
        let epoch = self.marks.epoch_key();
        let replies = connection.send(&[Command::new("WATCH").key(epoch), Command::new("GET").key(epoch)]).await;
        let mut replies = replies?.into_iter();
        good(replies.next().unwrap_or_default())?;
        let found = integer(replies.next().unwrap_or_default())?;
        if u64::try_from(found).ok() == Some(self.epoch) { Ok(()) } else { Err(self.marks.fenced()) }
    }

    /// The commands that ask for what a key holds.
    fn proving(&self, Proof { key, expected, .. }: &Proof) -> Vec<Command> {
        match expected {
            Expected::Fields(fields) => {
                vec![fields.iter().fold(Command::new("HMGET").key(key), |command, (name, _)| command.arg(name.as_str()))]
            }
            Expected::Text(_) => vec![Command::new("GET").key(key)],
            Expected::Members(members) => {
                let name = if self.shape == RowShape::SortedSet { "ZSCORE" } else { "SISMEMBER" };
                members.iter().map(|(member, _)| Command::new(name).key(key).arg(member.as_slice())).collect()
            }
        }
    }

    /// Compares what keys hold with what was written. A key whose time has come holds nothing, rightly.
    fn compare(&self, proofs: &[Proof], answers: Vec<Value>) -> Result<(), Failure> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        for Proof { key, expected, expires_ms } in proofs {
            let same = match expected {
                Expected::Fields(fields) => {
                    let found: Vec<Option<Vec<u8>>> = items(next())?.into_iter().map(bytes).collect::<Result<_, _>>()?;
                    found.len() == fields.len() && fields.iter().zip(&found).all(|((_, wanted), found)| wanted == found)
                }
                Expected::Text(wanted) => bytes(next())?.as_ref() == Some(wanted),
                Expected::Members(members) => {
                    let mut same = true;
                    for (_, score) in members {
                        let answer = next();
                        same &= match score {
                            None => integer(answer)? == 1,
                            Some(score) => number(answer)? == Some(*score),
                        };
                    }
                    same
                }
            };
            if !same && expires_ms.is_none_or(|ms| ms > clock::now_ms()) {
                let key = String::from_utf8_lossy(key);
                return Err(Failure::permanent(format!("the key `{key}` does not hold what was written to it"))
                    .help("something else writes the key at the same time, or the server evicts keys: see its `maxmemory-policy`"));
            }
        }
        Ok(())
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

fn number(reply: Value) -> Result<Option<f64>, Failure> {
    if let Value::Double(number) = reply {
        return Ok(Some(number));
    }
    Ok(bytes(reply)?.and_then(|text| String::from_utf8_lossy(&text).parse().ok()))
}

#[async_trait]
impl Writer for RowWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        self.rows += batch.num_rows() as u64;
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

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        if mark.split != self.split {
            return Err(Failure::permanent(format!("a mark of split `{}` came for split `{}`", mark.split, self.split)));
        }
        let committed = Committed { rows: self.rows, bytes: self.bytes };
        let standing = self.marks.standing(&self.split).await?;
        if standing.epoch != self.epoch {
            return Err(self.marks.fenced());
        }
        if standing.mark.is_some() {
            return Ok(committed);
        }
        if standing.published {
            return Err(Failure::permanent("the load is published already"));
        }
        match self.flush(Some(&mark)).await {
            Ok(()) => Ok(committed),
            // Whether a commit whose answer was lost took place is told by the mark.
            Err(failure) if failure.kind == FailureKind::Transient => match self.marks.standing(&self.split).await {
                Ok(standing) if standing.mark.as_ref() == Some(&mark) => Ok(committed),
                _ => Err(failure),
            },
            Err(failure) => Err(failure),
        }
    }
}

/// The answers to commands of which none may fail.
fn all_good(replies: Vec<Value>) -> Result<Vec<Value>, Failure> {
    replies.into_iter().map(good).collect()
}
