//! What kinds of changes came for a table since its last commit. Most streams bring nothing but whole rows and removals: of those the last one
//! of every key goes into the table as it is, while everything else has to be brought into order first.

use std::collections::HashMap;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

use super::catalog::TableColumn;
use super::fit::Form;
use crate::data::change::{Changes, EMPTIED, GONE, MOVED, PUT};
use crate::data::{Schema, Type};
use crate::failure::Failure;

/// Most changes that are remembered. Of a commit with more it is not known which ones are the last of their keys.
const MOST: u64 = 1 << 18;

/// The kinds of changes that came.
#[derive(Default)]
pub(super) struct Came {
    /// The places of the key in the rows that come; none when values that differ here could be one key in the table.
    key: Vec<usize>,
    /// The last change of every key, by its number.
    last: HashMap<u128, i64>,
    /// How many came.
    rows: u64,
    /// The numbers of those that were not the last of their key.
    pub outdated: Vec<i64>,
    pub gone: bool,
    pub moved: bool,
    pub emptied: bool,
    /// Rows of which some values were not sent.
    pub kept: bool,
}

impl Came {
    /// Nothing yet, of rows with these columns of a table.
    pub(super) fn new(schema: &Schema, columns: &[(usize, Form)], own: &[TableColumn], key: &[String]) -> Self {
        let place = |name: &String| {
            let (place, column) = schema.find(name)?;
            let form = columns.iter().find(|(other, _)| *other == place).map(|(_, form)| form)?;
            let alike = match (form, &column.ty) {
                (Form::Int(_), Type::Int(_) | Type::UInt(_)) | (Form::Date, Type::Date) | (Form::Bytes, Type::Uuid) => true,
                (Form::Bytes, Type::Text) => own.iter().any(|own| own.name == *name && own.exact),
                _ => false,
            };
            alike.then_some(place)
        };
        Self { key: key.iter().map(place).collect::<Option<_>>().unwrap_or_default(), ..Self::default() }
    }

    /// Takes note of a batch's changes; rows are none.
    pub(super) fn look(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let Some(changes) = Changes::of(batch) else { return Ok(()) };
        for row in 0..batch.num_rows() {
            match changes.what(row) {
                PUT => self.kept |= changes.kept(row).is_some(),
                GONE => self.gone = true,
                MOVED => self.moved = true,
                EMPTIED => self.emptied = true,
                other => return Err(Failure::permanent(format!("a change is of an unknown kind: {other}"))),
            }
        }
        let before = self.rows;
        self.rows += batch.num_rows() as u64;
        if self.is_plain() {
            return self.remember(batch, before).map_err(|error| Failure::permanent("the keys of changes cannot be compared").cause(error));
        }
        (self.last, self.outdated) = Default::default();
        Ok(())
    }

    fn remember(&mut self, batch: &RecordBatch, before: u64) -> Result<(), ArrowError> {
        let columns: Vec<_> = self.key.iter().map(|place| batch.column(*place).clone()).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
        // The table numbers what comes from 1 on.
        for (row, number) in rows.iter().zip(before as i64 + 1..) {
            self.outdated.extend(self.last.insert(xxh3_128(row.as_ref()), number));
        }
        Ok(())
    }

    /// Whether the last changes of all keys can be made in any order, for each says all of its row, and it is known which they are.
    pub(super) fn is_plain(&self) -> bool {
        !(self.emptied || self.kept || self.key.is_empty() || self.rows > MOST)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::super::types::PgType;
    use super::*;
    use crate::data::Column;

    fn came(form: Form, ty: Type, exact: bool) -> Came {
        let schema = Schema { columns: vec![Column::new("id", ty)] };
        let own = TableColumn {
            name: "id".to_owned(),
            ty: PgType::text(),
            not_null: true,
            fills_itself: false,
            generated: false,
            identity_always: false,
            exact,
        };
        Came::new(&schema, &[(0, form)], &[own], &["id".to_owned()])
    }

    fn of_numbers() -> Came {
        came(Form::Int(8), Type::Int(64), false)
    }

    fn batch(rows: &[(i64, &str, Option<&str>)]) -> RecordBatch {
        let id: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
        let word: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>());
        let kept: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>());
        RecordBatch::try_from_iter_with_nullable([("id", id, true), ("haul change", word, true), ("haul kept", kept, true)])
            .expect("a batch")
    }

    #[test]
    fn whole_rows_and_removals_are_plain() {
        let plain = |batches: &[&[(i64, &str, Option<&str>)]]| {
            let mut came = of_numbers();
            batches.iter().for_each(|rows| came.look(&batch(rows)).expect("known kinds"));
            came.is_plain()
        };
        assert!(plain(&[]));
        assert!(plain(&[&[(1, PUT, None), (2, GONE, None)], &[(1, PUT, None)]]));
        assert!(!plain(&[&[(1, PUT, Some(",0,"))]]));
        assert!(plain(&[&[(1, MOVED, None), (2, PUT, None)]]));
        assert!(!plain(&[&[(1, MOVED, None), (2, PUT, Some(",1,"))]]));
        assert!(!plain(&[&[(0, EMPTIED, None)], &[(1, PUT, None)]]));
        assert!(of_numbers().look(&batch(&[(1, "?", None)])).is_err());
    }

    #[test]
    fn all_but_the_last_change_of_a_key_are_outdated() {
        let mut came = of_numbers();
        came.look(&batch(&[(1, PUT, None), (2, PUT, None), (1, GONE, None)])).expect("known kinds");
        came.look(&batch(&[(3, PUT, None), (1, PUT, None), (2, GONE, None)])).expect("known kinds");
        assert_eq!(came.outdated, [1, 3, 2]);
    }

    #[test]
    fn more_changes_than_are_remembered_are_not_plain() {
        let mut came = of_numbers();
        let rows: Vec<_> = (0..MOST as i64 / 2).map(|key| (key, PUT, None)).collect();
        let batch = batch(&rows);
        came.look(&batch).expect("known kinds");
        came.look(&batch).expect("known kinds");
        assert!(came.is_plain());
        assert_eq!(came.outdated.len(), rows.len());
        came.look(&batch).expect("known kinds");
        assert!(!came.is_plain());
        assert_eq!(came.outdated, Vec::<i64>::new());
    }

    #[test]
    fn keys_that_the_table_may_take_for_one_are_not_compared_here() {
        for (form, ty, exact, alike) in [
            (Form::Int(4), Type::Int(64), false, true),
            (Form::Bytes, Type::Uuid, false, true),
            (Form::Date, Type::Date, false, true),
            (Form::Bytes, Type::Text, true, true),
            (Form::Bytes, Type::Text, false, false),
            (Form::Int(8), Type::Float(64), true, false),
            (Form::Float8, Type::Int(64), true, false),
        ] {
            assert_eq!(came(form.clone(), ty.clone(), exact).is_plain(), alike, "{ty:?} as {form:?}");
        }
    }
}
