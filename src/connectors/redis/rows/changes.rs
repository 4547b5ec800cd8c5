//! Changes of rows, held until they are committed: of each key only what it holds in the end.
//!
//! A change may leave out values that stay as they are. They are those of an earlier change that is held here, or else those that the key holds
//! on the server. What is held is written together with the mark. When it grows too large, a part of it is written before: rows, never what
//! removes a key or overwrites one whose values went to another key. So a stream that begins again at its mark still finds every value.

use std::collections::{BTreeMap, BTreeSet};

use arrow::record_batch::RecordBatch;

use super::encode::{Encoder, Values, Written};
use super::reading::page;
use crate::connectors::redis::{Address, Command, Server};
use crate::data::change::{self, EMPTIED, GONE, MOVED, PUT, is_kept};
use crate::define::pipeline::RedisRows;
use crate::failure::Failure;

/// Keys that one command removes.
const AT_ONCE: usize = 500;

/// The changes that wait.
#[derive(Default)]
pub(super) struct Changes {
    /// What each key holds in the end; `None` when it is gone.
    keys: BTreeMap<Vec<u8>, Option<Row>>,
    /// Every other key is gone, but for those that were written since.
    emptied: bool,
    written: BTreeSet<Vec<u8>>,
    /// Keys whose values went to another key.
    moved: BTreeSet<Vec<u8>>,
    /// The key that the next row comes from.
    from: Option<Vec<u8>>,
    bytes: usize,
}

struct Row {
    values: Values,
    /// Values that stay as they are on the server: their places among the stored ones, and their key.
    kept: Vec<(usize, Vec<u8>)>,
    expires_ms: Option<i64>,
}

impl Row {
    fn bytes(&self) -> usize {
        self.values.iter().flatten().map(Vec::len).sum()
    }
}

impl Changes {
    /// About how many bytes of values wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.emptied
    }

    /// Takes a batch of changes, in their order.
    pub(super) fn take(
        &mut self,
        encoder: &Encoder,
        batch: &RecordBatch,
        changes: change::Changes<'_>,
        now_ms: i64,
    ) -> Result<(), Failure> {
        let columns = encoder.printers(batch);
        for row in 0..batch.num_rows() {
            let what = changes.what(row);
            if what == EMPTIED {
                *self = Self { emptied: true, ..Self::default() };
                continue;
            }
            let key = encoder.key_of(&columns, row)?;
            match what {
                GONE => self.set(key, None),
                MOVED => {
                    self.from = Some(key);
                }
                PUT => {
                    let kept = changes.kept(row);
                    let values = encoder.stored(&columns, row, &key, &|place| kept.is_some_and(|kept| is_kept(kept, place)))?;
                    let mut new = Row { values, kept: Vec::new(), expires_ms: encoder.expires(batch, row, now_ms) };
                    let from = self.from.take();
                    if let Some(kept) = kept {
                        let missing = encoder.fields().iter().enumerate().filter(|(_, place)| is_kept(kept, **place)).map(|(at, _)| at);
                        self.fill(&mut new, missing, from.as_ref().unwrap_or(&key))?;
                        self.moved.extend(from.clone());
                    }
                    if let Some(from) = from {
                        self.set(from, None);
                    }
                    self.set(key, Some(new));
                }
                other => return Err(Failure::permanent(format!("a change of a kind `{other}` that is not known"))),
            }
        }
        Ok(())
    }

    /// Values that a change left out: those that are held, or a word that they are on the server.
    fn fill(&self, new: &mut Row, missing: impl Iterator<Item = usize>, from: &Vec<u8>) -> Result<(), Failure> {
        let held = match self.keys.get(from) {
            Some(None) => return Err(lost(from)),
            None if self.emptied && !self.written.contains(from) => return Err(lost(from)),
            held => held.and_then(Option::as_ref),
        };
        for at in missing {
            match held {
                None => new.kept.push((at, from.clone())),
                Some(held) => match held.kept.iter().find(|(other, _)| *other == at) {
                    Some((_, key)) => new.kept.push((at, key.clone())),
                    None => new.values[at] = held.values[at].clone(),
                },
            }
        }
        Ok(())
    }

    fn set(&mut self, key: Vec<u8>, row: Option<Row>) {
        self.bytes += key.len() + row.as_ref().map_or(0, Row::bytes);
        if let Some(Some(before)) = self.keys.insert(key, row) {
            self.bytes = self.bytes.saturating_sub(before.bytes());
        }
    }

    /// Asks the server for all values that were left out.
    async fn complete(&mut self, encoder: &Encoder, server: &Server) -> Result<(), Failure> {
        let wanted: BTreeSet<Vec<u8>> = self.keys.values().flatten().flat_map(|row| &row.kept).map(|(_, key)| key.clone()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let commands: Vec<Command> = wanted.iter().map(|key| encoder.ask(key)).collect();
        let mut found = BTreeMap::new();
        for (key, reply) in wanted.into_iter().zip(server.call(&commands).await?) {
            match encoder.answered(reply)? {
                Some(values) => drop(found.insert(key, values)),
                None if encoder.expires_keys() => {}
                None => return Err(lost(&key)),
            }
        }
        for held in self.keys.values_mut() {
            let Some(row) = held else { continue };
            for (at, key) in std::mem::take(&mut row.kept) {
                match found.get(&key) {
                    Some(values) => row.values[at] = values[at].clone(),
                    None => {
                        // What has expired stays away until the whole row comes again.
                        *held = None;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// What must be written now: everything, or a part before the end.
    pub(super) async fn settle(
        &mut self,
        encoder: &Encoder,
        server: &Server,
        all: bool,
        others: &RedisRows,
        node: &Address,
    ) -> Result<Vec<(Vec<u8>, Written)>, Failure> {
        self.complete(encoder, server).await?;
        let mut written = Vec::with_capacity(self.keys.len());
        if self.emptied && all {
            written.push((Vec::new(), commands_only(self.others(server, others, node).await?)));
        }
        let now: Vec<Vec<u8>> = self
            .keys
            .iter()
            .filter(|(key, row)| all || (row.is_some() && !self.moved.contains(*key)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in now {
            let one = match self.keys.remove(&key).flatten() {
                Some(row) => {
                    if self.emptied {
                        self.written.insert(key.clone());
                    }
                    encoder.whole(&key, row.values, row.expires_ms)
                }
                None => commands_only(vec![Command::new("DEL").key(&key)]),
            };
            written.push((key, one));
        }
        if all {
            *self = Self::default();
        }
        self.bytes = self.keys.iter().map(|(key, row)| key.len() + row.as_ref().map_or(0, Row::bytes)).sum();
        Ok(written)
    }

    /// The commands that remove every key of the rows. They go out with the rows that came after, and with the mark: until then nothing is
    /// removed.
    async fn others(&self, server: &Server, rows: &RedisRows, node: &Address) -> Result<Vec<Command>, Failure> {
        let mut commands = Vec::new();
        let mut cursor = b"0".to_vec();
        loop {
            let page = page(server, rows, node, &cursor).await?;
            let others: Vec<&Vec<u8>> = page.keys.iter().filter(|key| !self.written.contains(*key)).collect();
            for keys in others.chunks(AT_ONCE) {
                commands.push(keys.iter().fold(Command::new("DEL"), |command, key| command.key(key)));
            }
            cursor = page.cursor;
            if cursor == b"0" {
                return Ok(commands);
            }
        }
    }
}

fn commands_only(commands: Vec<Command>) -> Written {
    Written { commands, expected: None, expires_ms: None, appended: 0 }
}

/// What a row misses that was changed in part.
fn lost(key: &[u8]) -> Failure {
    let key = String::from_utf8_lossy(key).into_owned();
    Failure::permanent(format!(
        "a row was changed in part, and its key `{key}` is missing: somebody else has removed it, or it has expired"
    ))
    .help("`--fresh` copies the table again")
}
