//! What a lookup has found so far.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow::compute::interleave;

use super::Cache;
use super::rows::Distinct;
use crate::failure::Failure;
use crate::transform::Looked;

/// Where a row stands: the number of its part, and its own in it.
pub type Place = (usize, usize);

/// Columns that were found, in parts, and where each key stands.
pub struct Gathered<'a> {
    cache: &'a Cache,
    /// Numbers of the wanted columns.
    pub columns: &'a [usize],
    /// The first part is one row of NULLs, for the keys that are nowhere.
    parts: Vec<Vec<ArrayRef>>,
    /// Of each distinct key.
    places: Vec<Place>,
}

impl<'a> Gathered<'a> {
    /// Nothing yet of so many keys.
    pub fn new(cache: &'a Cache, columns: &'a [usize], keys: usize) -> Self {
        let nothing = columns.iter().map(|column| new_null_array(&cache.schema.columns[*column].ty.to_arrow(), 1)).collect();
        Self { cache, columns, parts: vec![nothing], places: vec![(0, 0); keys] }
    }

    /// Adds rows of the wanted columns. Gives the number of the part.
    pub fn part(&mut self, columns: Vec<ArrayRef>) -> usize {
        self.parts.push(columns);
        self.parts.len() - 1
    }

    /// Says where keys stand.
    pub fn place(&mut self, keys: impl IntoIterator<Item = (usize, Place)>) {
        for (key, place) in keys {
            self.places[key] = place;
        }
    }

    /// Takes keys with their rows in row form.
    pub fn rows<'r>(&mut self, rows: impl Iterator<Item = (usize, &'r [u8])> + Clone) -> Result<(), Failure> {
        if rows.clone().next().is_none() {
            return Ok(());
        }
        let decoded = self.cache.row_form.decode(rows.clone().map(|(_, row)| row))?;
        let part = self.part(self.wanted(&decoded));
        self.place(rows.enumerate().map(|(row, (key, _))| (key, (part, row))));
        Ok(())
    }

    /// The wanted ones of the cache's columns.
    pub fn wanted(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.columns.iter().map(|column| Arc::clone(&columns[*column])).collect()
    }

    /// One row for each row of the batch.
    pub fn looked(self, distinct: &Distinct) -> Result<Looked, Failure> {
        let places: Vec<Place> = distinct.of_row.iter().map(|key| key.map_or((0, 0), |key| self.places[key as usize])).collect();
        let column = |number: usize| {
            let parts: Vec<&dyn Array> = self.parts.iter().map(|part| part[number].as_ref()).collect();
            interleave(&parts, &places)
        };
        let columns = (0..self.columns.len()).map(column).collect::<Result<_, _>>();
        let columns = columns.map_err(|error| Failure::permanent("failed to put looked up columns together").cause(error))?;
        Ok(Looked { columns, found: BooleanArray::from_iter(places.iter().map(|(part, _)| Some(*part > 0))) })
    }
}
