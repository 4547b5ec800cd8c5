//! Batches → CSV.

use std::io::Write;

use arrow::record_batch::RecordBatch;

use crate::connectors::files::lines::Lines;
use crate::data::text::Printer;
use crate::data::{Schema, Type};
use crate::define::pipeline::CsvDialect;
use crate::failure::Failure;

/// Writes CSV of one dialect. NULL is the dialect's first null word, unquoted; a text that could be taken for it stands in quotes.
pub(in crate::connectors::files) struct CsvWriter<W> {
    lines: Lines<W>,
    schema: Schema,
    dialect: CsvDialect,
    null: Vec<u8>,
    value: Vec<u8>,
}

impl<W: Write> CsvWriter<W> {
    /// Writes the header when the dialect and the caller want one: a part that is appended to others has none.
    pub(in crate::connectors::files) fn new(
        path: &str,
        out: W,
        schema: &Schema,
        dialect: &CsvDialect,
        header: bool,
    ) -> Result<Self, Failure> {
        let null = dialect.null.first().cloned().unwrap_or_default().into_bytes();
        let mut writer = Self { lines: Lines::new(path, out), schema: schema.clone(), dialect: dialect.clone(), null, value: Vec::new() };
        if header && dialect.header {
            for (place, column) in schema.columns.iter().enumerate() {
                writer.value.clear();
                writer.value.extend_from_slice(column.name.as_bytes());
                writer.field(place)?;
            }
            writer.lines.end_line()?;
        }
        Ok(writer)
    }

    /// Writes a batch of the schema.
    pub(in crate::connectors::files) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let schema = self.schema.clone();
        let columns: Vec<(Printer<'_>, bool)> = batch
            .columns()
            .iter()
            .zip(&schema.columns)
            .map(|(array, column)| (Printer::new(array, &column.ty), self.is_safe(&column.ty)))
            .collect();
        for row in 0..batch.num_rows() {
            for (place, (printer, safe)) in columns.iter().enumerate() {
                if place > 0 && (printer.is_null(row) || *safe) {
                    self.lines.text.push(self.dialect.delimiter);
                }
                if printer.is_null(row) {
                    self.lines.text.extend_from_slice(&self.null);
                } else if *safe {
                    printer.print(row, &mut self.lines.text);
                } else {
                    self.value.clear();
                    printer.print(row, &mut self.value);
                    self.field(place)?;
                }
            }
            self.lines.end_line()?;
        }
        Ok(())
    }

    /// Hands on what was gathered, and the output.
    pub(in crate::connectors::files) fn end(self) -> Result<W, Failure> {
        self.lines.end()
    }

    /// Whether values of a type never need quotes: numbers and dates hold only these characters, unless the dialect uses one of them.
    fn is_safe(&self, ty: &Type) -> bool {
        let plain = matches!(
            ty,
            Type::Bool
                | Type::Int(_)
                | Type::UInt(_)
                | Type::Decimal(..)
                | Type::Date
                | Type::Time
                | Type::Timestamp
                | Type::TimestampTz
                | Type::Uuid
        );
        let odd = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte);
        let marks = [Some(self.dialect.delimiter), self.dialect.quote, self.dialect.escape];
        // A null word such as `0` or `NA` could be a value's text.
        let word = self
            .dialect
            .null
            .iter()
            .any(|word| !word.is_empty() && word.bytes().all(odd) && word.as_str() != "NA" && word.as_str() != "NULL");
        plain && !word && !marks.into_iter().flatten().any(odd)
    }

    /// Appends the gathered value as a field, quoted when it must be.
    fn field(&mut self, place: usize) -> Result<(), Failure> {
        if place > 0 {
            self.lines.text.push(self.dialect.delimiter);
        }
        let value = &self.value;
        let marks = [Some(self.dialect.delimiter), self.dialect.quote];
        let special = |byte: &u8| matches!(*byte, b'\n' | b'\r') || marks.contains(&Some(*byte));
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte == b' ' || *byte == b'\t');
        let needs = self.dialect.null.iter().any(|null| null.as_bytes() == value.as_slice())
            || value.is_empty()
            || edge(value.first())
            || edge(value.last())
            || value.iter().any(special);
        if !needs {
            self.lines.text.extend_from_slice(value);
            return Ok(());
        }
        let Some(quote) = self.dialect.quote else {
            if !value.iter().any(special) && !self.dialect.null.iter().any(|null| null.as_bytes() == value.as_slice()) {
                self.lines.text.extend_from_slice(value);
                return Ok(());
            }
            let column = &self.schema.columns[place].name;
            let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
            return Err(Failure::bad_rows(format!(
                "column `{column}` of `{}`: the value `{shown}` needs quotes, and the dialect has none",
                self.lines.path
            ))
            .help("set `csv: { quote: '\"' }`, or another delimiter or null word"));
        };
        self.lines.text.push(quote);
        for byte in value {
            if *byte == quote || Some(*byte) == self.dialect.escape {
                self.lines.text.push(self.dialect.escape.unwrap_or(quote));
            }
            self.lines.text.push(*byte);
        }
        self.lines.text.push(quote);
        Ok(())
    }
}
