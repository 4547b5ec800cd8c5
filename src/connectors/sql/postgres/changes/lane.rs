//! The changes of one table on their way into a batch.

use super::followed::Followed;
use super::pgoutput::{Tuple, Value};
use crate::connectors::sql::postgres::decode::Decoder;
use crate::connectors::sql::postgres::types::PgType;
use crate::data::{BatchLimit, Chunk, Schema, change};
use crate::failure::Failure;

/// One table, and the batch that is being made of its changes.
pub(super) struct Lane {
    pub followed: Followed,
    pub decoder: Decoder,
    tuple: Vec<u8>,
    /// For each column of the table, its place in the tuples of the log.
    relation: Vec<Option<usize>>,
}

impl Lane {
    pub(super) fn new(followed: Followed, limit: BatchLimit) -> Result<Self, Failure> {
        let decoder = Self::decoder(&followed, followed.logged_wire(), limit)?;
        Ok(Self { followed, decoder, tuple: Vec::new(), relation: Vec::new() })
    }

    /// Makes batches of the table's tuples in the form of COPY, with these columns.
    pub(super) fn decoder(followed: &Followed, (schema, types): (Schema, Vec<PgType>), limit: BatchLimit) -> Result<Decoder, Failure> {
        let decoder = Decoder::new(&schema, &types, &followed.key_names, limit, followed.label.clone())?;
        Ok(match followed.number {
            Some(table) => decoder.of_table(table),
            None => decoder,
        })
    }

    /// The batch so far, when there is one.
    pub(super) fn finish(&mut self) -> Result<Option<Chunk>, Failure> {
        if self.decoder.is_empty() { Ok(None) } else { self.decoder.finish().map(Some) }
    }

    /// The columns of the table from here on, in a transaction that ends at this place, and that may be `copied` already.
    pub(super) fn relation(&mut self, columns: &[(&str, u32)], end: u64, copied: bool) -> Result<(), Failure> {
        let Followed { schema, label, logged, seen, key, .. } = &self.followed;
        let unknown = columns.iter().find(|(column, _)| schema.find(column).is_none());
        // A column that was there before the plan, and is not in it, is gone from the table.
        if let Some((added, _)) = unknown.filter(|_| end > *seen) {
            return Err(Failure::permanent(format!("the table {label} has got a column `{added}`, which the plan does not know"))
                .help("run again, so that a new plan is made; `schema: evolve` in the output adds the column to the target"));
        }
        let mut relation = Vec::with_capacity(schema.columns.len());
        for (number, (column, ty)) in schema.columns.iter().zip(logged).enumerate() {
            let place = columns.iter().position(|(name, _)| *name == column.name);
            if place.is_none() && !copied && (unknown.is_some() || key.contains(&number)) {
                let gone = unknown.map_or("it".to_owned(), |(gone, _)| format!("`{gone}`"));
                let message = format!(
                    "the column `{}` of {label} is not in the log yet, but {gone} is: it may be renamed, or is a new key",
                    column.name
                );
                let help = "rows from before that change were not read yet: `--fresh` copies the table again";
                return Err(Failure::permanent(message).help(help));
            }
            if place.is_some_and(|place| columns[place].1 != *ty) && !(copied && end <= *seen) {
                let message = format!("the column `{}` of {label} has another type in the log than in the plan", column.name);
                let help = "run again, so that a new plan is made; when that does not help, rows from before the change were not read yet, and `--fresh` copies the table again";
                return Err(Failure::permanent(message).help(help));
            }
            relation.push(place);
        }
        self.relation = relation;
        Ok(())
    }

    pub(super) fn insert(&mut self, new: &Tuple<'_>) -> Result<(), Failure> {
        let value = |lane: &Self, column: usize| match lane.value(new, column) {
            // A new row is whole: what it does not have is a column that came later.
            Value::Unchanged => Value::Null,
            value => value,
        };
        self.row(change::PUT, "", value)
    }

    /// `whole` when the old row is there with all of its values, from which the new one has what it did not send.
    pub(super) fn update(&mut self, old: Option<&Tuple<'_>>, whole: bool, new: &Tuple<'_>) -> Result<(), Failure> {
        if let Some(old) = old.filter(|old| self.followed.key.iter().any(|&column| self.value(old, column) != self.value(new, column))) {
            self.gone(change::MOVED, old)?;
        }
        self.put(new, old.filter(|_| whole))
    }

    pub(super) fn delete(&mut self, old: &Tuple<'_>) -> Result<(), Failure> {
        self.gone(change::GONE, old)
    }

    pub(super) fn truncate(&mut self) -> Result<(), Failure> {
        self.row(change::EMPTIED, "", |_, _| Value::Null)
    }

    fn value<'a>(&self, tuple: &Tuple<'a>, column: usize) -> Value<'a> {
        // A column that the table did not have yet is left as it is.
        self.relation.get(column).copied().flatten().and_then(|place| tuple.get(place).copied()).unwrap_or(Value::Unchanged)
    }

    fn put(&mut self, new: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Result<(), Failure> {
        let value = |lane: &Self, column: usize| match lane.value(new, column) {
            Value::Unchanged => old.map_or(Value::Unchanged, |old| lane.value(old, column)),
            value => value,
        };
        let mut kept = String::new();
        for column in 0..self.followed.schema.columns.len() {
            if value(self, column) == Value::Unchanged {
                kept.push_str(if kept.is_empty() { "," } else { "" });
                kept.push_str(&format!("{column},"));
            }
        }
        self.row(change::PUT, &kept, value)
    }

    fn gone(&mut self, what: &str, old: &Tuple<'_>) -> Result<(), Failure> {
        self.row(what, "", |lane, column| if lane.followed.key.contains(&column) { lane.value(old, column) } else { Value::Null })
    }

    /// Adds a row in the form of COPY, which is that of the log but for the frame of each value.
    fn row<'a>(&mut self, what: &str, kept: &str, value: impl Fn(&Self, usize) -> Value<'a>) -> Result<(), Failure> {
        let count = self.followed.schema.columns.len();
        let mut tuple = std::mem::take(&mut self.tuple);
        tuple.clear();
        tuple.extend_from_slice(&(count as u16 + 2).to_be_bytes());
        let mut add = |value: Option<&[u8]>| match value {
            Some(bytes) => {
                tuple.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
                tuple.extend_from_slice(bytes);
            }
            None => tuple.extend_from_slice(&(-1_i32).to_be_bytes()),
        };
        for column in 0..count {
            match value(self, column) {
                Value::Binary(bytes) => add(Some(bytes)),
                Value::Null | Value::Unchanged => add(None),
            }
        }
        add(Some(what.as_bytes()));
        add(Some(kept.as_bytes()).filter(|kept| !kept.is_empty()));
        let added = self.decoder.tuple(&tuple);
        self.tuple = tuple;
        added
    }
}
