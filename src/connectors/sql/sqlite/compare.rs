//! Compares rows that were upserted with what arrived, and names the keys of those that differ.

use rusqlite::types::ValueRef;

use super::decode::Decoder;
use super::value::shown;
use crate::data::{RowHasher, Schema};
use crate::failure::Failure;

/// Keys named when rows differ.
const KEYS_NAMED: usize = 5;

/// Rows read back at a time.
const COMPARED: usize = 4096;

/// Rows read back from an upsert, against the hashes of the rows that arrived.
pub(super) struct Comparison<'a> {
    schema: &'a Schema,
    key: Vec<usize>,
    decoder: Decoder,
    expected: Vec<Vec<u8>>,
    names: Vec<String>,
    hasher: RowHasher,
    differing: Vec<String>,
    count: u64,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(schema: &'a Schema, key: &[String]) -> Self {
        let places = schema.columns.iter().enumerate();
        let key =
            places.filter(|(_, column)| key.iter().any(|name| name.eq_ignore_ascii_case(&column.name))).map(|(place, _)| place).collect();
        let decoder = Decoder::new(schema, true);
        Self {
            schema,
            key,
            decoder,
            expected: Vec::new(),
            names: Vec::new(),
            hasher: RowHasher::default(),
            differing: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn push<'v>(&mut self, value: impl Fn(usize) -> ValueRef<'v>, hash: Vec<u8>) -> Result<(), Failure> {
        let parts: Vec<String> =
            self.key.iter().map(|place| format!("{}: {}", self.schema.columns[*place].name, shown(value(*place)))).collect();
        match self.decoder.push(&value) {
            Ok(()) => {
                self.expected.push(hash);
                self.names.push(parts.join(", "));
            }
            Err(misfit) => {
                self.differs(format!("{} (column `{}` is {})", parts.join(", "), self.schema.columns[misfit.column].name, misfit.value))
            }
        }
        if self.decoder.rows() >= COMPARED { self.flush() } else { Ok(()) }
    }

    fn differs(&mut self, name: String) {
        self.count += 1;
        if self.differing.len() < KEYS_NAMED {
            self.differing.push(name);
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let (batch, _) = self.decoder.finish()?;
        let columns: Vec<usize> = (0..batch.num_columns()).collect();
        let hashes: Vec<u128> = self.hasher.hashes(&batch, &columns).collect();
        let expected = std::mem::take(&mut self.expected);
        let names = std::mem::take(&mut self.names);
        for ((hash, expected), name) in hashes.into_iter().zip(expected).zip(names) {
            if hash.to_le_bytes()[..] != expected[..] {
                self.differs(name);
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, table: &str) -> Result<(), Failure> {
        self.flush()?;
        if self.count == 0 {
            return Ok(());
        }
        let more = if self.count > self.differing.len() as u64 { ", …" } else { "" };
        Err(Failure::permanent(format!(
            "{} rows of `{table}` differ from what was written to them, by key: {}{more}",
            self.count,
            self.differing.join("; ")
        ))
        .help("a trigger, a collation of the key or the types of the table's columns change values on their way in"))
    }
}
