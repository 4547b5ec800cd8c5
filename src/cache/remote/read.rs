//! Hashes → rows.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use arrow::array::ArrayRef;
use redis::Value;

use super::generations::Control;
use super::meta::{self, Meta};
use super::{Kind, ROW, Remote};
use crate::cache::micros;
use crate::connectors::redis::{Command, reply};
use crate::data::text::Builder;
use crate::failure::Failure;

/// How often a read begins again because another generation came up meanwhile.
const ROUNDS: u32 = 100;

/// What the hashes of some keys hold. Keys are numbered as they were asked for.
pub struct Found {
    /// The server's clock when it was asked, in microseconds.
    pub now_us: u64,
    /// The wanted columns of the rows.
    pub columns: Vec<ArrayRef>,
    /// Of each row.
    pub rows: Vec<Meta>,
    /// Keys that are known to have no row.
    pub nowhere: Vec<Meta>,
}

impl Remote {
    /// The names of some keys, given as columns.
    pub fn names(&self, keys: &[ArrayRef]) -> Vec<Vec<u8>> {
        self.names.of(keys)
    }

    /// Reads some columns of the hashes of some names. A filled cache is read as of one generation: a key that it does not have is one that it
    /// did not have while it was the one that is seen.
    pub async fn read(&self, names: &[&[u8]], columns: &[usize]) -> Result<Found, Failure> {
        for _ in 0..ROUNDS {
            let generation = self.current.load(Ordering::Relaxed);
            let mut commands = Vec::with_capacity(names.len() + 2);
            commands.push(Command::new("TIME"));
            if self.generations {
                commands.push(self.control_command());
            }
            let names: Vec<Cow<'_, [u8]>> = names.iter().map(|name| self.named(name, generation)).collect();
            commands.extend(names.iter().map(|name| self.row_command(name, columns)));
            let mut replies = self.call(&commands).await?.into_iter();
            let now_us = now(replies.next().unwrap_or_default())?;
            if self.generations {
                let control = self.read_control(replies.next().unwrap_or_default())?;
                if control.current != generation {
                    self.current.store(control.current, Ordering::Relaxed);
                    continue;
                }
                self.fit(&control, now_us)?;
            }
            let found = self.found(names.iter().zip(replies), columns, now_us)?;
            // What is swept away while it is read looks as if it had never been there.
            let complete = found.rows.len() + found.nowhere.len() == names.len();
            if !self.generations || complete {
                return Ok(found);
            }
            let control = self.read_control(self.call(&[self.control_command()]).await?.pop().unwrap_or_default())?;
            if control.current == generation {
                return Ok(found);
            }
        }
        Err(Failure::transient(format!("the cache in `{}` is filled again and again, faster than it can be read", self.server.name())))
    }

    fn row_command(&self, name: &[u8], columns: &[usize]) -> Command {
        let command = Command::new("HMGET").key(name).arg(ROW);
        columns.iter().fold(command, |command, column| command.arg(self.schema.columns[*column].name.as_str()))
    }

    /// Whether the generation that is seen can be looked into.
    fn fit(&self, control: &Control, now_us: u64) -> Result<(), Failure> {
        let server = self.server.name();
        if control.current == 0 {
            let name = String::from_utf8_lossy(&self.names.control()).into_owned();
            return Err(Failure::permanent(format!("the cache in `{server}` is not filled: there is no `{name}`"))
                .help("let its stage run too; somebody may have emptied the server"));
        }
        if control.form != self.form {
            return Err(Failure::permanent(format!("the cache in `{server}` was filled with other columns than this pipeline has"))
                .help("let its stage run too; a pipeline with other columns needs another name in `in: { key: … }`"));
        }
        match self.oldest {
            Some(oldest) if now_us > control.since_us.saturating_add(micros(oldest)) => {
                Err(Failure::permanent(format!("the rows of the cache in `{server}` are older than its `ttl` of {oldest:?}"))
                    .help("let its stage run too, `refresh` it, or give it a longer `ttl`"))
            }
            _ => Ok(()),
        }
    }

    /// Reads hashes and their names.
    fn found<'n>(
        &self,
        hashes: impl Iterator<Item = (&'n Cow<'n, [u8]>, Value)>,
        columns: &[usize],
        now_us: u64,
    ) -> Result<Found, Failure> {
        let mut builders: Vec<Builder> = columns.iter().map(|column| Builder::new(&self.schema.columns[*column].ty, false)).collect();
        let (mut rows, mut nowhere) = (Vec::new(), Vec::new());
        for (key, (name, hash)) in hashes.enumerate() {
            let fields = self.of_key(name, hash).and_then(reply::items);
            let mut fields = fields.map_err(|failure| failure.during(format!("reading a row in `{}`", self.server.name())))?.into_iter();
            let Some(own) = reply::bytes(fields.next().unwrap_or_default())? else { continue };
            match meta::read(&own, &self.form, key) {
                Some((Kind::Row, meta)) => {
                    rows.push(meta);
                    for (builder, column) in builders.iter_mut().zip(columns) {
                        match reply::bytes(fields.next().unwrap_or_default())? {
                            None => builder.append_null(),
                            Some(value) => builder.append_raw(&value).map_err(|reason| self.unreadable(*column, &reason))?,
                        }
                    }
                }
                Some((Kind::Nowhere, meta)) => nowhere.push(meta),
                Some((Kind::Gone, _)) | None => {}
            }
        }
        Ok(Found { now_us, columns: builders.iter_mut().map(Builder::finish).collect(), rows, nowhere })
    }

    fn unreadable(&self, column: usize, reason: &str) -> Failure {
        let name = &self.schema.columns[column].name;
        Failure::bad_rows(format!("a value of `{name}` in the cache in `{}` {reason}", self.server.name()))
            .help("something else writes to the keys of the cache; remove them, or name the cache's keys otherwise")
    }
}

/// The answer to `TIME`, in microseconds.
fn now(reply: Value) -> Result<u64, Failure> {
    let parts: Vec<i64> = reply::items(reply)?.into_iter().map(reply::integer).collect::<Result<_, _>>()?;
    let part = |at: usize| parts.get(at).map_or(0, |part| part.unsigned_abs());
    Ok(part(0) * 1_000_000 + part(1))
}
