//! Rows that a target refuses: found by halves, and named by their keys. And those that it gives back otherwise.

use std::ops::Range;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;

use crate::data::change::{Changes, EMPTIED, GONE, MOVED};
use crate::data::text::Printer;
use crate::data::text::json::json_string;
use crate::data::{BatchStream, Reject, Schema, Type};
use crate::failure::Failure;

/// Rows that a target gives back, of which each must be what was written.
pub(super) fn as_written(rows: BatchStream) -> BatchStream {
    Box::pin(rows.map(|chunk| {
        let chunk = chunk?;
        match chunk.rejects.first() {
            None => Ok(chunk),
            Some(reject) => {
                Err(Failure::permanent(format!("the target holds another value than was written: {}: {}", reject.origin, reject.reason)))
            }
        }
    }))
}

/// Rows in parts that get smaller, until those at fault stand alone. Parts come in the order of their rows.
pub(super) struct Halves(Vec<Range<usize>>);

impl Halves {
    /// All rows as one part.
    pub(super) fn of(rows: usize) -> Self {
        Self(std::iter::once(0..rows).filter(|part| !part.is_empty()).collect())
    }

    /// The part to try next.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// Takes a refused part back as two; false when it cannot be cut. `tied` rows stay with the one before them.
    pub(super) fn cut(&mut self, part: &Range<usize>, tied: impl Fn(usize) -> bool) -> bool {
        let half = part.start + part.len() / 2;
        let before = (part.start + 1..half.max(part.start + 1)).rev();
        let Some(middle) = (half..part.end).chain(before).find(|row| *row > part.start && !tied(*row)) else { return false };
        self.0.extend([middle..part.end, part.start..middle]);
        true
    }
}

/// Tells of a row of a batch whether it belongs to the one before: a row that takes another key comes as its removal and the row behind that.
pub(super) fn tied(batch: &RecordBatch) -> impl Fn(usize) -> bool {
    let changes = Changes::of(batch);
    move |row| changes.is_some_and(|changes| changes.is_moved(row - 1))
}

/// A row of a target's own columns that the target refused. It is named by its key, or by its first column where there is none.
pub(super) fn reject(schema: &Schema, key: &[String], batch: &RecordBatch, row: usize, why: &Failure) -> Reject {
    let columns = || schema.columns.iter().zip(batch.columns());
    let mut named = Vec::new();
    for (place, (column, array)) in columns().enumerate() {
        if key.contains(&column.name) || (key.is_empty() && place == 0) {
            let (printer, mut text) = (Printer::new(array, &column.ty), Vec::new());
            if !printer.is_null(row) {
                printer.print(row, &mut text);
            }
            named.push(format!("{}={}", column.name, String::from_utf8_lossy(&text)));
        }
    }
    let mut text = vec![b'{'];
    for (column, array) in columns() {
        let printer = Printer::new(array, &column.ty);
        if text.len() > 1 {
            text.push(b',');
        }
        json_string(&column.name, &mut text);
        text.push(b':');
        match printer.text(row).filter(|_| column.ty == Type::Json) {
            Some(json) if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() => json_string(json, &mut text),
            _ => printer.print_json(row, &column.ty, &mut text),
        }
    }
    text.push(b'}');
    let what = match Changes::of(batch).map(|changes| changes.what(row)) {
        Some(GONE | MOVED) => "the removal of ",
        Some(EMPTIED) => "the removal of all rows before ",
        _ => "",
    };
    Reject { origin: format!("{what}{}", named.join(" ")), reason: why.to_string(), row: String::from_utf8_lossy(&text).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries parts until every refused row stands alone, or with the row that it is tied to.
    fn found(rows: usize, bad: &[usize], tied: &[usize]) -> (Vec<Vec<usize>>, Vec<usize>) {
        let (mut refused, mut taken) = (Vec::new(), Vec::new());
        let mut halves = Halves::of(rows);
        while let Some(part) = halves.next() {
            if !bad.iter().any(|row| part.contains(row)) {
                taken.extend(part);
            } else if !halves.cut(&part, |row| tied.contains(&row)) {
                refused.push(part.collect());
            }
        }
        (refused, taken)
    }

    #[test]
    fn every_row_at_fault_is_found_and_the_others_are_taken_in_order() {
        for rows in 0..20 {
            for bad in 0..rows {
                let (refused, taken) = found(rows, &[bad, 0], &[]);
                let expected = if bad == 0 { vec![vec![0]] } else { vec![vec![0], vec![bad]] };
                assert_eq!(refused, expected);
                assert_eq!(taken, (1..rows).filter(|row| *row != bad).collect::<Vec<_>>());
            }
        }
        assert_eq!(found(0, &[], &[]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn rows_that_belong_together_are_refused_together() {
        for rows in 2..20 {
            for second in 1..rows {
                let (refused, taken) = found(rows, &[second], &[second]);
                assert_eq!(refused, [[second - 1, second]], "{rows} rows");
                assert_eq!(taken, (0..rows).filter(|row| *row != second && *row + 1 != second).collect::<Vec<_>>());
            }
        }
        assert_eq!(found(3, &[0], &[1, 2]).0, [[0, 1, 2]]);
    }
}
