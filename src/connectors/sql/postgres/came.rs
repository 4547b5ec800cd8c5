//! What kinds of changes came for a table since its last commit. Most streams bring nothing but whole rows and removals, each key once a commit:
//! those go into the table as they are, while everything else has to be brought into order first.

use std::collections::HashSet;

use arrow::array::{Array, AsArray};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

use super::fit::Form;
use crate::data::change::{EMPTIED, GONE, MOVED, PUT};
use crate::data::{Schema, Type};
use crate::failure::Failure;

/// Most keys that are remembered, 16 bytes each. Of a commit with more it is not known whether a key comes twice.
const MOST: usize = 1 << 18;

/// The kinds of changes that came.
#[derive(Default)]
pub(super) struct Came {
    /// The places of the key in the rows that come; none when values that differ here could be one key in the table.
    key: Vec<usize>,
    keys: HashSet<u128>,
    pub gone: bool,
    pub moved: bool,
    pub emptied: bool,
    /// Rows of which some values were not sent.
    pub kept: bool,
    /// A key may have come twice.
    repeated: bool,
}

impl Came {
    /// Nothing yet, of rows with these columns.
    pub(super) fn new(schema: &Schema, columns: &[(usize, Form)], key: &[String]) -> Self {
        let place = |name: &String| {
            let (place, column) = schema.find(name)?;
            let form = columns.iter().find(|(other, _)| *other == place).map(|(_, form)| form)?;
            let alike = match form {
                Form::Int(_) => matches!(column.ty, Type::Int(_) | Type::UInt(_)),
                Form::Date => column.ty == Type::Date,
                Form::Bytes => column.ty == Type::Uuid,
                _ => false,
            };
            alike.then_some(place)
        };
        let key: Vec<usize> = key.iter().map(place).collect::<Option<_>>().unwrap_or_default();
        Self { repeated: key.is_empty(), key, ..Self::default() }
    }

    /// Takes note of changes.
    pub(super) fn look(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let [words, kept] = [2, 1].map(|behind| batch.column(batch.num_columns() - behind));
        for word in words.as_string::<i32>().iter().flatten() {
            match word {
                PUT => {}
                GONE => self.gone = true,
                MOVED => self.moved = true,
                EMPTIED => self.emptied = true,
                other => return Err(Failure::permanent(format!("a change is of an unknown kind: {other}"))),
            }
        }
        self.kept |= kept.null_count() < kept.len();
        if self.is_plain() {
            self.repeated =
                self.repeats(batch).map_err(|error| Failure::permanent("the keys of changes cannot be compared").cause(error))?;
            if self.repeated {
                self.keys = HashSet::new();
            }
        }
        Ok(())
    }

    fn repeats(&mut self, batch: &RecordBatch) -> Result<bool, ArrowError> {
        let columns: Vec<_> = self.key.iter().map(|place| batch.column(*place).clone()).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
        Ok(self.keys.len() + rows.num_rows() > MOST || !rows.iter().all(|row| self.keys.insert(xxh3_128(row.as_ref()))))
    }

    /// Whether the changes can be made in any order, for each is the only one of its row and says all of it.
    pub(super) fn is_plain(&self) -> bool {
        !(self.moved || self.emptied || self.kept || self.repeated)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;
    use crate::data::Column;

    fn came(form: Form, ty: Type) -> Came {
        let schema = Schema { columns: vec![Column::new("id", ty)] };
        Came::new(&schema, &[(0, form)], &["id".to_owned()])
    }

    fn batch(rows: &[(i64, &str, Option<&str>)]) -> RecordBatch {
        let id: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
        let word: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>());
        let kept: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>());
        RecordBatch::try_from_iter_with_nullable([("id", id, true), ("haul change", word, true), ("haul kept", kept, true)])
            .expect("a batch")
    }

    #[test]
    fn only_whole_rows_and_removals_of_different_keys_are_plain() {
        let plain = |batches: &[&[(i64, &str, Option<&str>)]]| {
            let mut came = came(Form::Int(8), Type::Int(64));
            batches.iter().for_each(|rows| came.look(&batch(rows)).expect("known kinds"));
            came.is_plain()
        };
        assert!(plain(&[]));
        assert!(plain(&[&[(1, PUT, None), (2, GONE, None)], &[(3, PUT, None)]]));
        assert!(!plain(&[&[(1, PUT, None), (1, GONE, None)]]), "a key twice in a batch");
        assert!(!plain(&[&[(1, PUT, None)], &[(2, PUT, None), (1, PUT, None)]]), "a key twice in a commit");
        assert!(!plain(&[&[(1, PUT, Some(",0,"))]]));
        assert!(!plain(&[&[(1, MOVED, None), (2, PUT, None)]]));
        assert!(!plain(&[&[(0, EMPTIED, None)], &[(1, PUT, None)]]));
        assert!(came(Form::Int(8), Type::Int(64)).look(&batch(&[(1, "?", None)])).is_err());
    }

    #[test]
    fn keys_that_the_table_may_take_for_one_are_not_compared_here() {
        for (form, ty, alike) in [
            (Form::Int(4), Type::Int(64), true),
            (Form::Bytes, Type::Uuid, true),
            (Form::Date, Type::Date, true),
            (Form::Bytes, Type::Text, false),
            (Form::Int(8), Type::Float(64), false),
            (Form::Float8, Type::Int(64), false),
        ] {
            assert_eq!(came(form.clone(), ty.clone()).is_plain(), alike, "{ty:?} as {form:?}");
        }
    }
}
