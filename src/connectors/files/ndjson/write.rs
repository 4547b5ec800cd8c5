//! Batches → NDJSON.

use std::io::Write;

use arrow::record_batch::RecordBatch;

use crate::connectors::files::lines::Lines;
use crate::data::text::Printer;
use crate::data::text::json::json_string;
use crate::data::{Schema, Type};
use crate::failure::Failure;

/// Rows as JSON objects on one line, keys in column order. NULL is `null`, except in JSON columns, where it is a missing key and `null` is the
/// JSON value.
pub(in crate::connectors) struct JsonObjects {
    schema: Schema,
    /// Each column's key, quoted, with its colon.
    keys: Vec<Vec<u8>>,
}

impl JsonObjects {
    /// Rows of these columns.
    pub(in crate::connectors) fn new(schema: &Schema) -> Self {
        let key = |name: &str| {
            let mut key = Vec::new();
            json_string(name, &mut key);
            key.push(b':');
            key
        };
        Self { schema: schema.clone(), keys: schema.columns.iter().map(|column| key(&column.name)).collect() }
    }

    /// Writes one row. The error is the name of the column that cannot be written so, and what it holds.
    pub(in crate::connectors) fn print(
        &self,
        columns: &[Printer<'_>],
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), (String, &'static str)> {
        self.print_some(columns, row, |place| self.schema.columns[place].ty != Type::Json || !columns[place].is_null(row), out)
    }

    /// The same with some columns only, by their places. NULL is `null` in all of them.
    pub(in crate::connectors) fn print_some(
        &self,
        columns: &[Printer<'_>],
        row: usize,
        which: impl Fn(usize) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), (String, &'static str)> {
        out.push(b'{');
        let mut first = true;
        for (place, ((printer, column), key)) in columns.iter().zip(&self.schema.columns).zip(&self.keys).enumerate() {
            if !which(place) {
                continue;
            }
            if column.ty == Type::Json && !printer.is_null(row) {
                one_line(printer.text(row).unwrap_or_default()).map_err(|what| (column.name.clone(), what))?;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(key);
            printer.print_json(row, &column.ty, out);
        }
        out.push(b'}');
        Ok(())
    }
}

/// Writes one JSON object a row.
pub(in crate::connectors::files) struct NdjsonWriter<W> {
    lines: Lines<W>,
    schema: Schema,
    objects: JsonObjects,
}

impl<W: Write> NdjsonWriter<W> {
    /// Nothing is written yet.
    pub(in crate::connectors::files) fn new(path: &str, out: W, schema: &Schema) -> Self {
        Self { lines: Lines::new(path, out), schema: schema.clone(), objects: JsonObjects::new(schema) }
    }

    /// Writes a batch of the schema.
    pub(in crate::connectors::files) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let columns = batch.columns().iter().zip(&self.schema.columns);
        let columns: Vec<Printer<'_>> = columns.map(|(array, column)| Printer::new(array, &column.ty)).collect();
        for row in 0..batch.num_rows() {
            self.objects.print(&columns, row, &mut self.lines.text).map_err(|(column, what)| {
                Failure::bad_rows(format!("column `{column}` of `{}` holds {what}", self.lines.path))
                    .help(format!("write it as text: `cast: {{ {column}: text }}`"))
            })?;
            self.lines.end_line()?;
        }
        Ok(())
    }

    /// Hands on what was gathered, and the output.
    pub(in crate::connectors::files) fn end(self) -> Result<W, Failure> {
        self.lines.end()
    }
}

/// Whether a JSON text can stand in a line as it is written.
fn one_line(text: &str) -> Result<(), &'static str> {
    if text.contains(['\n', '\r']) {
        return Err("JSON with line breaks between its parts, which no line of NDJSON can keep as written");
    }
    if text.trim_matches(' ') != text {
        return Err("JSON with spaces around it, which NDJSON does not keep");
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|_| "text that is not JSON in a JSON column")
}
