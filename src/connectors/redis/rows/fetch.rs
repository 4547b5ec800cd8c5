//! Keys → what they hold, in pipelines of bounded size; large keys in pieces.

use std::collections::HashSet;

use redis::Value;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::decode::{Head, Item, Rows};
use super::place::behind;
use crate::clock;
use crate::connectors::redis::reply::{bytes, good, integer, items};
use crate::connectors::redis::{Command, Server, Version};
use crate::data::Chunk;
use crate::define::pipeline::{OtherTypes, RedisRows, RowShape};
use crate::failure::Failure;

/// Bytes that one pipeline's answers should come to, by those that came before.
const ANSWER_BYTES: usize = 1 << 20;
/// The most keys that are asked for in one pipeline.
const MOST_KEYS: usize = 1000;
/// Keys that are asked for in the first pipeline, when nothing is known of their size.
const FIRST_KEYS: usize = 64;
/// Items of a collection that are asked for at a time.
const PIECE: usize = 500;
/// Times of keys that never expire, and of those that are not there: such a one expired behind its value.
const NEVER: i64 = -1;
const GONE: i64 = -2;
/// The first version that tells the time at which a key expires.
const EXPIRETIME: Version = Version(7, 0, 0);

/// Reads keys and hands their rows on.
pub(super) struct Fetch<'a> {
    server: &'a Server,
    spec: &'a RedisRows,
    rows: Rows,
    sender: mpsc::Sender<Chunk>,
    /// Whether the server tells when keys expire; an older one tells how long they live.
    tells_time: bool,
    /// Bytes and keys so far, by which the next pipelines are sized.
    seen: (usize, usize),
}

/// A key with the answers to its first commands.
struct Answered<'k> {
    key: &'k [u8],
    reply: Value,
    expires_ms: Option<i64>,
}

impl<'a> Fetch<'a> {
    /// Reads for one source.
    pub(super) async fn new(server: &'a Server, spec: &'a RedisRows, rows: Rows, sender: mpsc::Sender<Chunk>) -> Result<Self, Failure> {
        let tells_time = server.facts().await?.version >= EXPIRETIME;
        Ok(Self { server, spec, rows, sender, tells_time, seen: (0, 0) })
    }

    /// Reads these keys.
    pub(super) async fn keys(&mut self, keys: &[Vec<u8>]) -> Result<(), Failure> {
        let mut rest = keys;
        while !rest.is_empty() {
            let average = self.seen.0.checked_div(self.seen.1).map_or(ANSWER_BYTES / FIRST_KEYS, |average| average.max(1));
            let (now, later) = rest.split_at(rest.len().min((ANSWER_BYTES / average).clamp(1, MOST_KEYS)));
            rest = later;
            let mut doubtful = Vec::new();
            for answered in self.first(now).await? {
                self.one(answered, &mut doubtful).await?;
            }
            self.fieldless(&doubtful).await?;
        }
        Ok(())
    }

    /// Hands on what is left.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        self.hand_on(true).await
    }

    async fn hand_on(&mut self, all: bool) -> Result<(), Failure> {
        if !(all || self.rows.is_full()) {
            return Ok(());
        }
        match self.rows.take()? {
            Some(chunk) => self.sender.send(chunk).await.map_err(|_| Failure::cancelled()),
            None => Ok(()),
        }
    }

    async fn first<'k>(&mut self, keys: &'k [Vec<u8>]) -> Result<Vec<Answered<'k>>, Failure> {
        let expires = self.rows.layout().expires();
        let mut commands = Vec::with_capacity(keys.len() * 2);
        for key in keys {
            commands.push(self.read(key));
            if expires {
                commands.push(Command::new(if self.tells_time { "PEXPIRETIME" } else { "PTTL" }).key(key));
            }
        }
        let mut replies = self.server.call(&commands).await?.into_iter();
        let now = clock::now_ms();
        let mut answered = Vec::with_capacity(keys.len());
        let mut size = 0;
        for key in keys {
            let reply = replies.next().unwrap_or_default();
            size += reply_bytes(&reply) + key.len();
            let expires_ms = if expires { integer(replies.next().unwrap_or_default())? } else { NEVER };
            if expires_ms == GONE {
                continue;
            }
            let expires_ms = (expires_ms >= 0).then(|| if self.tells_time { expires_ms } else { now.saturating_add(expires_ms) });
            answered.push(Answered { key, reply, expires_ms });
        }
        self.rows.count(size);
        self.seen = ((self.seen.0 + size) / 2, (self.seen.1 + keys.len()).div_ceil(2));
        Ok(answered)
    }

    /// The command that reads a key, or the first piece of it.
    fn read(&self, key: &[u8]) -> Command {
        let fields = &self.rows.layout().fields;
        match self.spec.shape {
            RowShape::Hash if fields.is_empty() => Command::new("HLEN").key(key),
            RowShape::Hash => fields.iter().fold(Command::new("HMGET").key(key), |command, field| command.arg(field.as_str())),
            RowShape::Json | RowShape::String => Command::new("GET").key(key),
            RowShape::List => range(key, 0),
            RowShape::Set => Command::new("SSCAN").key(key).arg("0").arg("COUNT").arg(PIECE),
            RowShape::SortedSet => Command::new("ZSCAN").key(key).arg("0").arg("COUNT").arg(PIECE),
            RowShape::Stream => entries(key, "-"),
        }
    }

    async fn one(&mut self, answered: Answered<'_>, doubtful: &mut Vec<(Vec<u8>, Option<i64>)>) -> Result<(), Failure> {
        let Answered { key, reply, expires_ms } = answered;
        if let Value::ServerError(error) = &reply
            && error.code() == "WRONGTYPE"
        {
            if self.spec.other_types == OtherTypes::Reject {
                let reason =
                    format!("the key holds another type than `{}`; `other_types: skip` passes such keys over", self.spec.shape.word());
                self.rows.reject(key, reason, b"");
            }
            return Ok(());
        }
        let Some(parts) = self.spec.key.read(key) else { return Ok(()) };
        let head = Head { key, parts: &parts, expires_ms };
        match self.spec.shape {
            RowShape::Hash => {
                if let Value::Int(fields) = reply {
                    if fields > 0 {
                        self.rows.push(head, Item::default());
                    }
                } else {
                    let values = texts(reply)?;
                    if values.iter().all(Option::is_none) {
                        doubtful.push((key.to_vec(), expires_ms));
                        return Ok(());
                    }
                    self.push_fields(head, &values);
                }
            }
            // A key that is gone by now is no row.
            RowShape::Json => bytes(reply)?.iter().for_each(|value| self.rows.push_object(head, value)),
            RowShape::String => bytes(reply)?.iter().for_each(|value| self.rows.push(head, Item { value, ..Item::default() })),
            RowShape::List => self.list(head, reply).await?,
            RowShape::Set | RowShape::SortedSet => self.members(head, reply).await?,
            RowShape::Stream => self.stream(head, reply).await?,
        }
        self.hand_on(false).await
    }

    /// Hashes that have none of the fields: those that are still there are rows of NULLs.
    async fn fieldless(&mut self, keys: &[(Vec<u8>, Option<i64>)]) -> Result<(), Failure> {
        // The fields are asked for again: a hash that is there by now may have been made since.
        let commands: Vec<Command> = keys.iter().flat_map(|(key, _)| [self.read(key), Command::new("HLEN").key(key)]).collect();
        if commands.is_empty() {
            return Ok(());
        }
        let mut replies = self.server.call(&commands).await?.into_iter();
        for (key, expires_ms) in keys {
            let values = replies.next().unwrap_or_default();
            let is_there = integer(replies.next().unwrap_or_default())? > 0;
            if let (Some(parts), true) = (self.spec.key.read(key), is_there) {
                self.push_fields(Head { key, parts: &parts, expires_ms: *expires_ms }, &texts(values)?);
                self.hand_on(false).await?;
            }
        }
        Ok(())
    }

    fn push_fields(&mut self, head: Head<'_>, values: &[Option<Vec<u8>>]) {
        let fields: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
        self.rows.push(head, Item { fields: &fields, ..Item::default() });
    }

    async fn list(&mut self, head: Head<'_>, first: Value) -> Result<(), Failure> {
        let mut piece = items(first)?;
        let mut index = 0;
        loop {
            let count = piece.len();
            for item in piece {
                let value = bytes(item)?.unwrap_or_default();
                self.rows.push(head, Item { value: &value, index, ..Item::default() });
                index += 1;
                self.hand_on(false).await?;
            }
            if count < PIECE {
                return Ok(());
            }
            piece = items(self.ask(range(head.key, index)).await?)?;
        }
    }

    async fn members(&mut self, head: Head<'_>, first: Value) -> Result<(), Failure> {
        let scored = self.spec.shape == RowShape::SortedSet;
        let mut seen: Option<HashSet<u64>> = None;
        let mut reply = first;
        loop {
            let mut parts = items(reply)?.into_iter();
            let cursor = bytes(parts.next().unwrap_or_default())?.unwrap_or_default();
            let mut members = items(parts.next().unwrap_or_default())?.into_iter();
            let last = cursor == b"0";
            if !last {
                seen.get_or_insert_default();
            }
            while let Some(member) = members.next() {
                let value = bytes(member)?.unwrap_or_default();
                let score = if scored { bytes(members.next().unwrap_or_default())?.unwrap_or_default() } else { Vec::new() };
                // A scan over several pieces may give a member twice.
                if seen.as_mut().is_none_or(|seen| seen.insert(xxh3_64(&value))) {
                    self.rows.push(head, Item { value: &value, score: &score, ..Item::default() });
                    self.hand_on(false).await?;
                }
            }
            if last {
                return Ok(());
            }
            let name = if scored { "ZSCAN" } else { "SSCAN" };
            reply = self.ask(Command::new(name).key(head.key).arg(cursor).arg("COUNT").arg(PIECE)).await?;
        }
    }

    async fn stream(&mut self, head: Head<'_>, first: Value) -> Result<(), Failure> {
        let mut piece = items(first)?;
        loop {
            let count = piece.len();
            let mut last = Vec::new();
            for entry in piece {
                last = self.rows.push_entry(head, entry)?;
                self.hand_on(false).await?;
            }
            if count < PIECE {
                return Ok(());
            }
            piece = items(self.ask(entries(head.key, &behind(&String::from_utf8_lossy(&last)))).await?)?;
        }
    }

    async fn ask(&mut self, command: Command) -> Result<Value, Failure> {
        let reply = good(self.server.call(&[command]).await?.pop().unwrap_or_default())?;
        self.rows.count(reply_bytes(&reply));
        Ok(reply)
    }
}

fn texts(reply: Value) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    items(reply)?.into_iter().map(bytes).collect()
}

fn range(key: &[u8], from: i64) -> Command {
    Command::new("LRANGE").key(key).arg(from).arg(from + PIECE as i64 - 1)
}

fn entries(key: &[u8], from: &str) -> Command {
    Command::new("XRANGE").key(key).arg(from).arg("+").arg("COUNT").arg(PIECE)
}

/// Bytes of the texts in an answer.
fn reply_bytes(reply: &Value) -> usize {
    match reply {
        Value::BulkString(bytes) => bytes.len(),
        Value::Array(items) | Value::Set(items) => items.iter().map(reply_bytes).sum(),
        _ => 0,
    }
}
