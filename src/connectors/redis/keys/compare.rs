//! Two servers compared: every key of the source must be in the target with the same type, value and expiry.
//!
//! Payloads are compared first, which is quick. They may differ though the values do not: sets and hashes lie in another order on each
//! server, and versions pack values differently. So keys whose payloads differ are read again from the source as commands, and the target
//! is asked element by element. Sources and keys that expire are alive: what differs is looked at again before it is told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, BinaryArray, PrimitiveArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use redis::Value as Reply;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::check::{self, Check, Progress};
use super::expiry::{self, Expiry};
use super::pieces::{Pieces, integer_text, words};
use super::sink::KeysTarget;
use super::value::{self, Value};
use super::{scan, shown};
use crate::clock;
use crate::connectors::redis::reply::{bytes, good, items, text};
use crate::connectors::redis::{Command, Server};
use crate::connectors::{Compared, Load, Rows};
use crate::data::{BatchStream, Digest};
use crate::define::pipeline::{KeyType, Verify};
use crate::failure::Failure;

/// Keys that are looked at again together.
const TOGETHER: usize = 500;
/// Keys that may wait to be looked at again.
const WAITING: usize = 5_000;
/// Keys that differ for good and are kept by name; more are counted only.
const KEPT: usize = 100_000;
/// How often a key that differs is looked at again, after longer and longer pauses.
const ROUNDS: u32 = 3;
/// The pause before the second look.
const PAUSE: Duration = Duration::from_millis(200);
/// Names of keys that one pass over the target holds, at about 16 bytes each.
const NAMES_PER_PASS: u64 = 1 << 21;
/// Differences that are told.
const TOLD: usize = 20;

const MISSING: &str = "missing in the target";
const EXTRA: &str = "only in the target";
const OTHER_TYPE: &str = "its type differs";
const OTHER_VALUE: &str = "its value differs";
const OTHER_EXPIRY: &str = "its expiry differs";

/// A key of the source.
struct Key<'a> {
    key: &'a [u8],
    name: Vec<u8>,
    expires_at: Option<i64>,
    value: &'a [u8],
}

/// A comparison under way.
struct Comparison<'a> {
    target: &'a KeysTarget,
    expiry: Expiry,
    rows: &'a dyn Rows,
    load: &'a Load,
    digest: Digest,
    /// Keys whose payloads differ.
    waiting: Vec<Vec<u8>>,
    /// Keys that differ, with what.
    differing: Vec<(Vec<u8>, &'static str)>,
    /// Those beyond [`KEPT`].
    more: u64,
    /// Progress of keys that come in pieces, by their names, and what was found to differ.
    pieces: HashMap<Vec<u8>, (Progress, Option<&'static str>)>,
}

/// Compares a server with the keys that a source gives.
pub(super) async fn compare(target: &KeysTarget, load: &Load, rows: &dyn Rows) -> Result<Compared, Failure> {
    let expiry = Expiry::of(&target.server).await?;
    let mut comparison = Comparison {
        target,
        expiry,
        rows,
        load,
        digest: Digest::default(),
        waiting: Vec::new(),
        differing: Vec::new(),
        more: 0,
        pieces: HashMap::new(),
    };
    let mut all = rows.all().await?;
    while let Some(chunk) = all.next().await {
        comparison.first_look(&chunk?.batch).await?;
        if comparison.waiting.len() >= WAITING {
            comparison.second_look().await?;
        }
    }
    comparison.second_look().await?;
    comparison.last_looks().await?;
    let mut differences: Vec<String> =
        comparison.differing.iter().take(TOLD).map(|(key, what)| format!("{}: {what}", shown(key))).collect();
    let count = comparison.differing.len() as u64 + comparison.more;
    let extra = if target.spec.only { comparison.extra().await? } else { Vec::new() };
    differences.extend(extra.iter().take(TOLD.saturating_sub(differences.len())).map(|key| format!("{}: {EXTRA}", shown(key))));
    let found_rows = comparison.digest.rows.saturating_sub(count) + extra.len() as u64;
    Ok(Compared { digest: comparison.digest, found_rows, differences })
}

impl Comparison<'_> {
    fn server(&self) -> &Arc<Server> {
        &self.target.server
    }

    fn keys<'b>(&self, batch: &'b RecordBatch) -> Result<Vec<Key<'b>>, Failure> {
        let column = |name: &str| {
            let found = self.load.schema.find(name).map(|(place, _)| batch.column(place));
            found.ok_or_else(|| Failure::permanent(format!("the keys come without `{name}`")))
        };
        let keys: &BinaryArray = column("key")?.as_binary();
        let times: &PrimitiveArray<TimestampMicrosecondType> = column("expires_at")?.as_primitive();
        let values: &BinaryArray = column("value")?.as_binary();
        (0..batch.num_rows())
            .map(|row| {
                let expires_at = (!times.is_null(row)).then(|| times.value(row).div_euclid(1000));
                Ok(Key { key: keys.value(row), name: self.target.name(keys.value(row))?, expires_at, value: values.value(row) })
            })
            .collect()
    }

    /// Compares a batch by payloads, and remembers the keys that differ. Values that came as commands are compared by them at once.
    async fn first_look(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let keys = self.keys(batch)?;
        let count = self.load.verify == Verify::Count;
        let mut plain = Vec::new();
        let mut commands = Vec::new();
        let mut by_commands = Vec::new();
        for key in keys {
            match Value::read(key.value)? {
                _ if count => commands.push(Command::new("EXISTS").key(&key.name)),
                Value::Dump(_) => commands.extend([Command::new("DUMP").key(&key.name), self.expiry.ask(&key.name)]),
                Value::Piece { .. } => {
                    by_commands.push(key);
                    continue;
                }
            }
            plain.push(key);
        }
        commands.extend(self.expiry.clock());
        let mut replies = self.server().call(&commands).await?;
        let now = self.expiry.now(&mut replies)?;
        let mut replies = replies.into_iter();
        for key in plain {
            let reply = replies.next().unwrap_or_default();
            let same = if count {
                good(reply)? == Reply::Int(1)
            } else {
                let there = expiry::life(replies.next().unwrap_or_default(), now)?;
                let Value::Dump(payload) = Value::read(key.value)? else { continue };
                bytes(reply)?.as_deref() == Some(payload) && expiry::same(key.expires_at, there)
            };
            self.digest.add_row(xxh3_128(&key.name));
            if !same {
                self.waiting.push(key.key.to_vec());
            }
        }
        for (key, what, whole) in self.by_commands(by_commands).await? {
            if whole {
                self.digest.add_row(xxh3_128(&key));
            }
            if what.is_some() {
                self.waiting.push(key);
            }
        }
        Ok(())
    }

    /// Compares values that came as commands. Of each key whose last piece this was: its old name, what differs, and true.
    async fn by_commands(&mut self, keys: Vec<Key<'_>>) -> Result<Vec<(Vec<u8>, Option<&'static str>, bool)>, Failure> {
        let mut checks: Vec<Check> = Vec::new();
        let mut commands = Vec::new();
        let mut ends = Vec::new();
        for key in &keys {
            let Value::Piece { last, commands: kept, .. } = Value::read(key.value)? else { continue };
            let progress = &mut self.pieces.entry(key.name.clone()).or_default().0;
            let kept = value::commands(kept)?;
            let ty = kept.first().map_or("stream", |(name, _)| check::type_of(name));
            for (name, of) in &kept {
                check::of_command(name, of, &key.name, progress, &mut checks);
            }
            if last {
                checks.push(check::of_length(ty, &key.name, progress));
            }
            ends.push((checks.len(), ty));
        }
        commands.extend(checks.iter().map(|check| check.command.clone()));
        for key in &keys {
            commands.extend([Command::new("TYPE").key(&key.name), self.expiry.ask(&key.name)]);
        }
        commands.extend(self.expiry.clock());
        let mut replies = self.server().call(&commands).await?;
        let now = self.expiry.now(&mut replies)?;
        let facts = replies.split_off(checks.len());
        let mut right = Vec::with_capacity(checks.len());
        for (check, reply) in checks.iter().zip(replies) {
            right.push(check.is_right(reply)?);
        }
        let mut done = Vec::new();
        let mut start = 0;
        for ((key, (end, ty)), facts) in keys.iter().zip(ends).zip(facts.chunks(2)) {
            let Value::Piece { last, .. } = Value::read(key.value)? else { continue };
            let there = text(facts[0].clone())?;
            let what = if there == "none" {
                (!self.is_over(key)).then_some(MISSING)
            } else if there != ty {
                Some(OTHER_TYPE)
            } else if !right[start..end].iter().all(|right| *right) {
                Some(OTHER_VALUE)
            } else {
                (!expiry::same(key.expires_at, expiry::life(facts[1].clone(), now)?)).then_some(OTHER_EXPIRY)
            };
            start = end;
            let known = self.pieces.entry(key.name.clone()).or_default();
            known.1 = known.1.or(what);
            if last {
                let what = self.pieces.remove(&key.name).and_then(|(_, what)| what);
                done.push((key.key.to_vec(), what, true));
            }
        }
        Ok(done)
    }

    /// Whether a key has expired by now, so that nobody needs to have it.
    fn is_over(&self, key: &Key<'_>) -> bool {
        key.expires_at.is_some_and(|instant| instant <= clock::now_ms())
    }

    /// Looks at the keys whose payloads differed, by commands.
    async fn second_look(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        for keys in waiting.chunks(TOGETHER) {
            let found = self.look(keys).await?;
            let room = KEPT.saturating_sub(self.differing.len());
            self.more += found.len().saturating_sub(room) as u64;
            self.differing.extend(found.into_iter().take(room));
        }
        Ok(())
    }

    /// Looks at what differs again and again: it may have been on its way.
    async fn last_looks(&mut self) -> Result<(), Failure> {
        for round in 1..ROUNDS {
            if self.differing.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE * round).await;
            let keys: Vec<Vec<u8>> = std::mem::take(&mut self.differing).into_iter().map(|(key, _)| key).collect();
            for keys in keys.chunks(TOGETHER) {
                let found = self.look(keys).await?;
                self.differing.extend(found);
            }
        }
        Ok(())
    }

    /// Of these keys, those that differ now. Keys that have left the source do not.
    async fn look(&mut self, keys: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, &'static str)>, Failure> {
        let mut again: BatchStream = self.rows.again(&BinaryArray::from_iter_values(keys)).await?;
        let mut differing = Vec::new();
        self.pieces.clear();
        while let Some(chunk) = again.next().await {
            let batch = chunk?.batch;
            let keys = self.keys(&batch)?;
            if self.load.verify == Verify::Count {
                let commands: Vec<Command> = keys.iter().map(|key| Command::new("EXISTS").key(&key.name)).collect();
                let replies = self.server().call(&commands).await?;
                let missing = keys.iter().zip(replies).filter(|(key, reply)| *reply == Reply::Int(0) && !self.is_over(key));
                differing.extend(missing.map(|(key, _)| (key.key.to_vec(), MISSING)));
                continue;
            }
            let found = self.by_commands(keys).await?;
            differing.extend(found.into_iter().filter_map(|(key, what, _)| Some((key, what?))));
        }
        Ok(differing)
    }

    /// Keys that are only in the target. In as many passes as it takes to hold the names of each.
    async fn extra(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut extra = Vec::new();
        let passes = scan::count(self.server()).await?.div_ceil(NAMES_PER_PASS).max(1);
        for pass in 0..passes {
            let mine = |name: &[u8]| Some(xxh3_64(name)).filter(|hash| hash % passes == pass);
            let mut expected: HashSet<u64> = HashSet::new();
            let mut all = self.rows.all().await?;
            while let Some(chunk) = all.next().await {
                expected.extend(self.keys(&chunk?.batch)?.iter().filter_map(|key| mine(&key.name)));
            }
            for master in &self.server().topology().await?.masters {
                let mut cursor = 0;
                loop {
                    let command = Command::new("SCAN").arg(cursor).arg("COUNT").arg(1000);
                    let mut page = items(self.server().on(&master.address, &[command]).await?.pop().unwrap_or_default())?.into_iter();
                    cursor = integer_text(page.next().unwrap_or_default())?;
                    let names = words(items(page.next().unwrap_or_default())?)?;
                    let names = names.into_iter().filter(|name| scan::wanted(&["*".to_owned()], name));
                    extra.extend(
                        names.filter(|name| mine(name).is_some_and(|hash| !expected.contains(&hash))).take(KEPT - extra.len().min(KEPT)),
                    );
                    if cursor == 0 {
                        break;
                    }
                }
            }
        }
        extra.sort();
        extra.dedup();
        self.still_extra(extra).await
    }

    /// Leaves out what the source has by now, and what the target no longer has.
    async fn still_extra(&self, extra: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Failure> {
        let mut still = Vec::new();
        for names in extra.chunks(TOGETHER) {
            let mut known: HashSet<Vec<u8>> = HashSet::new();
            if self.target.spec.rename.is_none() {
                let mut again = self.rows.again(&BinaryArray::from_iter_values(names)).await?;
                while let Some(chunk) = again.next().await {
                    known.extend(self.keys(&chunk?.batch)?.into_iter().map(|key| key.name));
                }
            }
            let commands: Vec<Command> = names.iter().map(|name| Command::new("EXISTS").key(name)).collect();
            let replies = self.server().call(&commands).await?;
            let there = names.iter().zip(replies).filter(|(name, reply)| *reply == Reply::Int(1) && !known.contains(*name));
            still.extend(there.map(|(name, _)| name.clone()));
        }
        Ok(still)
    }
}

/// What differs between two keys of one server, of which the first also tells the value that is wanted; `None` when nothing does.
pub(super) async fn same_keys(
    server: &Arc<Server>,
    wanted: &[u8],
    key: &[u8],
    expires_at: Option<i64>,
) -> Result<Option<&'static str>, Failure> {
    let how = Expiry::of(server).await?;
    let mut commands =
        vec![Command::new("TYPE").key(wanted), Command::new("TYPE").key(key), Command::new("MEMORY USAGE").key(wanted), how.ask(key)];
    commands.extend(how.clock());
    let mut replies = server.call(&commands).await?;
    let now = how.now(&mut replies)?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or_default();
    let (ty, other) = (text(next())?, text(next())?);
    let size = if let Reply::Int(size) = next() { size.unsigned_abs() } else { 0 };
    let there = expiry::life(next(), now)?;
    if ty == "none" {
        // It expired on the way, and so has no say any more.
        return Ok(None);
    }
    if ty != other {
        return Ok(Some(OTHER_TYPE));
    }
    if !expiry::same(expires_at, there) {
        return Ok(Some(OTHER_EXPIRY));
    }
    let Some(ty) = KeyType::ALL.into_iter().find(|known| known.word() == ty) else {
        return Ok(Some("its type is a module's, which cannot be compared"));
    };
    let mut pieces = Pieces::begin(Arc::clone(server), wanted.to_vec(), ty, size, 1 << 20).await?;
    let mut progress = Progress::default();
    while let Some(piece) = pieces.next().await? {
        let Value::Piece { last, commands: kept, .. } = Value::read(&piece)? else { continue };
        let mut checks = Vec::new();
        for (name, of) in value::commands(kept)? {
            check::of_command(name, &of, key, &mut progress, &mut checks);
        }
        if last {
            checks.push(check::of_length(ty.word(), key, &progress));
        }
        let commands: Vec<Command> = checks.iter().map(|check| check.command.clone()).collect();
        for (check, reply) in checks.iter().zip(server.call(&commands).await?) {
            if !check.is_right(reply)? {
                return Ok(Some(OTHER_VALUE));
            }
        }
    }
    Ok(None)
}
