//! Lookups: the keys of a batch against the cache.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow::compute::interleave;
use async_trait::async_trait;

use super::Cache;
use super::rows::Distinct;
use crate::failure::Failure;
use crate::transform::{Looked, Lookup, Tally};

#[async_trait]
impl Lookup for Cache {
    async fn find(&self, keys: &[ArrayRef], columns: &[usize], tally: &Tally) -> Result<Looked, Failure> {
        let shelf = self.shelf().ok_or_else(|| {
            Failure::permanent(format!("the cache `{}` has not been filled", self.name))
                .help("let its stage run too: `--only` leaves it out unless it is named")
        })?;
        let rows = self.key_form.encode(keys)?;
        let distinct = Distinct::of(keys, &rows);
        let mut gathered = Gathered::new(self, columns, distinct.firsts.len());
        let hits: Vec<Option<Arc<[u8]>>> = distinct.firsts.iter().map(|first| shelf.get(rows.row(*first).data())).collect();
        gathered.rows(&hits)?;
        let hits = hits.iter().flatten().count() as u64;
        Tally::add(&tally.keys, distinct.firsts.len() as u64);
        Tally::add(&tally.hits, hits);
        Tally::add(&tally.memory_hits, hits);
        Tally::add(&tally.misses, distinct.firsts.len() as u64 - hits);
        gathered.looked(&distinct)
    }
}

/// Columns that were found, in parts, and in which part each key stands.
struct Gathered<'a> {
    cache: &'a Cache,
    columns: &'a [usize],
    /// The first part is one row of NULLs, for the keys that are nowhere.
    parts: Vec<Vec<ArrayRef>>,
    /// Part and row of each distinct key.
    places: Vec<(usize, usize)>,
}

impl<'a> Gathered<'a> {
    fn new(cache: &'a Cache, columns: &'a [usize], keys: usize) -> Self {
        let nothing = columns.iter().map(|column| new_null_array(&cache.schema.columns[*column].ty.to_arrow(), 1)).collect();
        Self { cache, columns, parts: vec![nothing], places: vec![(0, 0); keys] }
    }

    /// Takes rows in row form, one for each key that has one.
    fn rows(&mut self, rows: &[Option<Arc<[u8]>>]) -> Result<(), Failure> {
        let decoded = self.cache.row_form.decode(rows.iter().flatten().map(|row| &**row))?;
        let part = self.parts.len();
        let found = rows.iter().enumerate().filter(|(_, row)| row.is_some());
        for (row, (key, _)) in found.enumerate() {
            self.places[key] = (part, row);
        }
        self.parts.push(self.columns.iter().map(|column| Arc::clone(&decoded[*column])).collect());
        Ok(())
    }

    /// One row for each row of the batch.
    fn looked(self, distinct: &Distinct) -> Result<Looked, Failure> {
        let places: Vec<(usize, usize)> = distinct.of_row.iter().map(|key| key.map_or((0, 0), |key| self.places[key as usize])).collect();
        let column = |number: usize| {
            let parts: Vec<&dyn Array> = self.parts.iter().map(|part| part[number].as_ref()).collect();
            interleave(&parts, &places)
        };
        let columns = (0..self.columns.len()).map(column).collect::<Result<_, _>>();
        let columns = columns.map_err(|error| Failure::permanent("failed to put looked up columns together").cause(error))?;
        Ok(Looked { columns, found: BooleanArray::from_iter(places.iter().map(|(part, _)| Some(*part > 0))) })
    }
}
