//! Reading keys: pages of names, then their values, several groups at a time, in order.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use redis::Value as Reply;

use super::expiry::{Expiry, Life, life};
use super::pieces::{Pieces, words};
use super::scan::{Found, Page, Scan};
use super::value::{self, Piece};
use super::{COLUMNS, payload, shown};
use crate::clock;
use crate::connectors::redis::reply::{bytes, good, items, text};
use crate::connectors::redis::scans::Range;
use crate::connectors::redis::{Command, Server};
use crate::connectors::{ReadRequest, Reading, Split, SplitGoal, Splits};
use crate::data::{BatchStream, Chunk, Position, Schema};
use crate::define::pipeline::{KeyType, KeysSource};
use crate::failure::Failure;

/// Groups of keys whose values are asked for at the same time.
const AHEAD: usize = 3;
/// Keys of a group, at most.
const GROUP: usize = 500;

/// One view of the keys of a server. A live server has no snapshots: keys are read as they are when their turn comes.
#[derive(Clone)]
pub(super) struct KeysReading {
    pub(super) server: Arc<Server>,
    pub(super) spec: Arc<KeysSource>,
    pub(super) schema: Schema,
    pub(super) request: ReadRequest,
    pub(super) expiry: Expiry,
}

/// What is asked for together: keys whose values are small together, or one whose value comes in pieces.
enum Group {
    Small(Vec<Found>, Option<Position>),
    Large(Found),
}

/// A key, read.
struct Row {
    key: Vec<u8>,
    ty: Option<&'static str>,
    /// Milliseconds since 1970.
    expires_at: Option<i64>,
    value: Vec<u8>,
}

#[async_trait]
impl Reading for KeysReading {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    /// One split for each master: a node's keys come by one cursor.
    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let topology = self.server.refresh().await?;
        let split = |id: String, slots: Vec<(u16, u16)>, label: String| Range { slots }.split(id, label);
        let all = || topology.masters.iter().flat_map(|master| master.slots.clone()).collect();
        let splits = match topology.masters.as_slice() {
            [_] => vec![split("all".to_owned(), all(), "all keys".to_owned())?],
            _ if goal.most == 1 => vec![split("all".to_owned(), all(), "all keys".to_owned())?],
            masters => masters
                .iter()
                .enumerate()
                .map(|(number, master)| split(format!("{number:04}"), master.slots.clone(), format!("keys of {}", master.address)))
                .collect::<Result<_, _>>()?,
        };
        Ok(Splits { splits, fingerprint: None })
    }

    /// Slots mean the same keys wherever they move.
    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn read(&self, split: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let scan = Scan::begin(Arc::clone(&self.server), Arc::clone(&self.spec), split, from, self.asks_types()).await?;
        let pages = stream::try_unfold(scan, |mut scan| async move { Ok::<_, Failure>(scan.next().await?.map(|page| (page, scan))) });
        let (most, limit, piece) = (self.group_keys(), self.group_bytes(), self.piece_bytes());
        let groups = pages.map_ok(move |page| stream::iter(groups(page, most, limit, piece).into_iter().map(Ok))).try_flatten();
        let reading = self.clone();
        let read = groups.map(move |group| {
            let reading = reading.clone();
            async move { reading.group(group?).await }
        });
        Ok(Box::pin(read.buffered(AHEAD).try_flatten()))
    }

    async fn again(&self, keys: &BinaryArray) -> Result<BatchStream, Failure> {
        let portable = Self { request: ReadRequest { portable: true, ..self.request.clone() }, ..self.clone() };
        let names: Vec<Vec<u8>> = keys.iter().flatten().map(<[u8]>::to_vec).collect();
        let commands: Vec<Command> =
            names.iter().flat_map(|key| [Command::new("MEMORY USAGE").key(key), Command::new("TYPE").key(key)]).collect();
        let replies = self.server.call(&commands).await?;
        let mut found = Vec::with_capacity(names.len());
        for (key, replies) in names.into_iter().zip(replies.chunks(2)) {
            let word = text(replies[1].clone())?;
            let bytes = if let Reply::Int(bytes) = replies[0] { bytes.unsigned_abs() } else { 0 };
            if word != "none" {
                found.push(Found { key, ty: KeyType::ALL.into_iter().find(|ty| ty.word() == word), bytes });
            }
        }
        let groups = groups(Page { keys: found, position: None }, self.group_keys(), self.group_bytes(), self.piece_bytes());
        let read = stream::iter(groups).then(move |group| {
            let portable = portable.clone();
            async move { portable.group(group).await }
        });
        Ok(Box::pin(read.try_flatten()))
    }
}

/// Cuts a page into groups of at most so many keys and bytes; a key beyond `piece` bytes is a group of its own.
fn groups(page: Page, most: usize, limit: u64, piece: u64) -> Vec<Group> {
    let mut groups = Vec::new();
    let (mut small, mut weight) = (Vec::new(), 0);
    for found in page.keys {
        if found.bytes > piece {
            groups.push(Group::Large(found));
            continue;
        }
        if weight + found.bytes > limit || small.len() >= most {
            groups.push(Group::Small(std::mem::take(&mut small), None));
            weight = 0;
        }
        weight += found.bytes;
        small.push(found);
    }
    groups.push(Group::Small(small, page.position));
    groups
}

impl KeysReading {
    fn reads_value(&self) -> bool {
        self.request.columns.as_ref().is_none_or(|columns| columns.iter().any(|name| name == COLUMNS[3]))
    }

    /// Whether types are asked for: a payload tells its own.
    fn asks_types(&self) -> bool {
        self.request.portable || !self.reads_value()
    }

    fn group_keys(&self) -> usize {
        GROUP.min(self.request.limit.rows).max(1)
    }

    /// Bytes in memory of the keys of a group.
    fn group_bytes(&self) -> u64 {
        (self.request.limit.bytes as u64 / 4).max(16 << 10)
    }

    /// A key that takes more than this comes in pieces of about this size.
    fn piece_bytes(&self) -> u64 {
        (self.request.limit.bytes as u64 / 2).max(16 << 10)
    }

    async fn group(&self, group: Group) -> Result<BatchStream, Failure> {
        match group {
            Group::Small(keys, position) => {
                let chunk = self.small(keys, position).await;
                Ok(Box::pin(stream::iter([chunk])))
            }
            Group::Large(found) if self.reads_value() => self.large(found).await,
            Group::Large(found) => {
                let chunk = self.small(vec![found], None).await;
                Ok(Box::pin(stream::iter([chunk])))
            }
        }
    }

    /// Reads the values of small keys in one round trip. Keys that are gone by now are left out.
    async fn small(&self, keys: Vec<Found>, position: Option<Position>) -> Result<Chunk, Failure> {
        let mut rows = Vec::with_capacity(keys.len());
        if !self.reads_value() {
            for (found, life) in keys.iter().zip(self.lives(&keys).await?) {
                let Life::Until(expires_at) = life else { continue };
                rows.push(Row { key: found.key.clone(), ty: found.ty.map(KeyType::word), expires_at, value: Vec::new() });
            }
        } else if self.request.portable {
            self.by_commands(keys, &mut rows).await?;
        } else {
            self.payloads(keys, &mut rows).await?;
        }
        let now = clock::now_ms();
        rows.retain(|row| self.lives_as_asked(row.expires_at, now));
        self.chunk(rows, position)
    }

    async fn lives(&self, keys: &[Found]) -> Result<Vec<Life>, Failure> {
        let mut commands: Vec<Command> = keys.iter().map(|found| self.expiry.ask(&found.key)).collect();
        commands.extend(self.expiry.clock());
        let mut replies = self.server.call(&commands).await?;
        let now = self.expiry.now(&mut replies)?;
        replies.into_iter().map(|reply| life(reply, now)).collect()
    }

    async fn payloads(&self, keys: Vec<Found>, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let mut commands = Vec::with_capacity(keys.len() * 2 + 1);
        for found in &keys {
            commands.extend([Command::new("DUMP").key(&found.key), self.expiry.ask(&found.key)]);
        }
        commands.extend(self.expiry.clock());
        let mut replies = self.server.call(&commands).await?;
        let now = self.expiry.now(&mut replies)?;
        let mut replies = replies.into_iter();
        for found in keys {
            let (dumped, time) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
            let Some(payload) = bytes(dumped).map_err(|failure| failure.during(format_args!("key {}", shown(&found.key))))? else {
                continue;
            };
            let Life::Until(expires_at) = life(time, now)? else { continue };
            let ty = found.ty.or_else(|| payload::key_type(&payload)).map(KeyType::word);
            rows.push(Row { key: found.key, ty, expires_at, value: value::dump(&payload) });
        }
        Ok(())
    }

    /// Reads small keys as the commands that make them.
    async fn by_commands(&self, keys: Vec<Found>, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let mut commands = Vec::with_capacity(keys.len() * 2 + 1);
        for found in &keys {
            let Some(ty) = found.ty else { return Err(of_a_module(&found.key)) };
            let value = match ty {
                KeyType::String => Command::new("GET").key(&found.key),
                KeyType::List => Command::new("LRANGE").key(&found.key).arg(0).arg(-1),
                KeyType::Set => Command::new("SMEMBERS").key(&found.key),
                KeyType::SortedSet => Command::new("ZRANGE").key(&found.key).arg(0).arg(-1).arg("WITHSCORES"),
                KeyType::Hash => Command::new("HGETALL").key(&found.key),
                KeyType::Stream => Command::new("XLEN").key(&found.key),
            };
            commands.extend([value, self.expiry.ask(&found.key)]);
        }
        commands.extend(self.expiry.clock());
        let mut replies = self.server.call(&commands).await?;
        let now = self.expiry.now(&mut replies)?;
        let mut replies = replies.into_iter();
        for found in keys {
            let (reply, time) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
            let (Some(ty), Life::Until(expires_at)) = (found.ty, life(time, now)?) else { continue };
            let value = match ty {
                KeyType::Stream => {
                    self.all_pieces(&found, expires_at, rows).await?;
                    continue;
                }
                ty => small_value(ty, good(reply)?)?,
            };
            rows.extend(value.map(|value| Row { key: found.key, ty: Some(ty.word()), expires_at, value }));
        }
        Ok(())
    }

    async fn all_pieces(&self, found: &Found, expires_at: Option<i64>, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let Some(ty) = found.ty else { return Err(of_a_module(&found.key)) };
        let mut pieces = Pieces::begin(Arc::clone(&self.server), found.key.clone(), ty, found.bytes, self.piece_bytes() as usize).await?;
        while let Some(value) = pieces.next().await? {
            rows.push(Row { key: found.key.clone(), ty: Some(ty.word()), expires_at, value });
        }
        Ok(())
    }

    /// Reads a large key piece by piece, a chunk each.
    async fn large(&self, mut found: Found) -> Result<BatchStream, Failure> {
        if found.ty.is_none() {
            let word = text(self.server.call(&[Command::new("TYPE").key(&found.key)]).await?.pop().unwrap_or_default())?;
            if word == "none" {
                return Ok(Box::pin(stream::empty()));
            }
            found.ty = KeyType::ALL.into_iter().find(|ty| ty.word() == word);
        }
        let Some(ty) = found.ty else { return Err(of_a_module(&found.key)) };
        // Once for the whole key: each piece comes later than the one before.
        let expires_at = match self.lives(std::slice::from_ref(&found)).await?.pop() {
            Some(Life::Until(expires_at)) if self.lives_as_asked(expires_at, clock::now_ms()) => expires_at,
            _ => return Ok(Box::pin(stream::empty())),
        };
        let pieces = Pieces::begin(Arc::clone(&self.server), found.key.clone(), ty, found.bytes, self.piece_bytes() as usize).await?;
        let reading = self.clone();
        Ok(Box::pin(stream::try_unfold((pieces, reading, found.key), move |(mut pieces, reading, key)| async move {
            let Some(value) = pieces.next().await? else { return Ok(None) };
            let chunk = reading.chunk(vec![Row { key: key.clone(), ty: Some(ty.word()), expires_at, value }], None)?;
            Ok(Some((chunk, (pieces, reading, key))))
        })))
    }

    fn lives_as_asked(&self, expires_at: Option<i64>, now: i64) -> bool {
        let Some(expires_at) = expires_at else { return self.spec.unlimited };
        let left = std::time::Duration::from_millis((expires_at - now).max(0).unsigned_abs());
        self.spec.least_lifetime.is_none_or(|least| left >= least) && self.spec.most_lifetime.is_none_or(|most| left <= most)
    }

    fn chunk(&self, rows: Vec<Row>, position: Option<Position>) -> Result<Chunk, Failure> {
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        let keys = rows.iter().map(|row| row.key.len()).sum();
        let mut key = BinaryBuilder::with_capacity(rows.len(), keys);
        let mut ty = StringBuilder::with_capacity(rows.len(), rows.len() * 6);
        let mut expires_at = TimestampMicrosecondBuilder::with_capacity(rows.len());
        let mut value = BinaryBuilder::with_capacity(rows.len(), bytes - keys);
        for row in &rows {
            key.append_value(&row.key);
            ty.append_value(row.ty.unwrap_or("module"));
            expires_at.append_option(row.expires_at.map(|millis| millis.saturating_mul(1000)));
            value.append_value(&row.value);
        }
        let mut columns: Vec<(usize, ArrayRef)> = vec![
            (0, Arc::new(key.finish())),
            (1, Arc::new(ty.finish())),
            (2, Arc::new(expires_at.finish().with_timezone("UTC"))),
            (3, Arc::new(value.finish())),
        ];
        if let Some(names) = &self.request.columns {
            let place = |name: &String| columns.iter().find(|(at, _)| COLUMNS[*at] == name).cloned();
            columns = names.iter().filter_map(place).collect();
        }
        let columns: Vec<ArrayRef> = columns.into_iter().map(|(_, column)| column).collect();
        let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.to_arrow(), columns, &options)
            .map_err(|error| Failure::permanent("keys do not fit their columns").cause(error))?;
        Ok(Chunk { batch, rejects: Vec::new(), bytes: bytes as u64, position, lag: None })
    }
}

/// A small value as commands; `None` when the key is gone.
fn small_value(ty: KeyType, reply: Reply) -> Result<Option<Vec<u8>>, Failure> {
    let mut piece = Piece::default();
    if ty == KeyType::String {
        let Some(value) = bytes(reply)? else { return Ok(None) };
        piece.command("SET", [value.as_slice()]);
        return Ok(Some(piece.value(true, true)));
    }
    let mut members = words(items(reply)?)?;
    if members.is_empty() {
        return Ok(None);
    }
    if ty == KeyType::SortedSet {
        members.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
    }
    match ty {
        KeyType::List => piece.many("RPUSH", &members, 1),
        KeyType::Set => piece.many("SADD", &members, 1),
        KeyType::SortedSet => piece.many("ZADD", &members, 2),
        _ => piece.many("HSET", &members, 2),
    }
    Ok(Some(piece.value(true, true)))
}

fn of_a_module(key: &[u8]) -> Failure {
    Failure::permanent(format!("the key {} has a type of a module, which no command carries", shown(key)))
        .help("leave it out: list the types to copy in `types`, or name its pattern with `!`")
}
