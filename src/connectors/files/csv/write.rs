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
        let mut writer = Self { lines: Lines::new(path, out), schema: schema.clone(), dialect: dialect.clone(), null };
        if header && dialect.header {
            for (place, column) in schema.columns.iter().enumerate() {
                writer.field(place, column.name.as_bytes())?;
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
        let mut value = Vec::new();
        for row in 0..batch.num_rows() {
            for (place, (printer, safe)) in columns.iter().enumerate() {
                let null = printer.is_null(row);
                if place > 0 && (null || *safe) {
                    self.lines.text.push(self.dialect.delimiter);
                }
                if null {
                    self.lines.text.extend_from_slice(&self.null);
                } else if *safe {
                    printer.print(row, &mut self.lines.text);
                } else if let Some(text) = printer.text(row) {
                    self.field(place, text.as_bytes())?;
                } else {
                    value.clear();
                    printer.print(row, &mut value);
                    self.field(place, &value)?;
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

    /// Appends a value as a field, quoted when it must be.
    fn field(&mut self, place: usize, value: &[u8]) -> Result<(), Failure> {
        let text = &mut self.lines.text;
        if place > 0 {
            text.push(self.dialect.delimiter);
        }
        let is_null_word = || self.dialect.null.iter().any(|null| null.as_bytes() == value);
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte == b' ' || *byte == b'\t');
        let marks = [b'\n', b'\r', self.dialect.delimiter, self.dialect.quote.unwrap_or(b'\n')];
        let special = holds(value, marks);
        if !special && !value.is_empty() && !edge(value.first()) && !edge(value.last()) && !is_null_word() {
            text.extend_from_slice(value);
            return Ok(());
        }
        let Some(quote) = self.dialect.quote else {
            if !special && !is_null_word() {
                text.extend_from_slice(value);
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
        let escape = self.dialect.escape.unwrap_or(quote);
        text.push(quote);
        if holds(value, [quote, escape]) {
            for byte in value {
                if *byte == quote || *byte == escape {
                    text.push(escape);
                }
                text.push(*byte);
            }
        } else {
            text.extend_from_slice(value);
        }
        text.push(quote);
        Ok(())
    }
}

/// Whether a value holds one of the bytes. It looks at all of them without a branch, so that the compiler compares many at a time.
fn holds<const N: usize>(value: &[u8], marks: [u8; N]) -> bool {
    value.iter().fold(false, |found, byte| found | marks.iter().fold(false, |found, mark| found | (byte == mark)))
}
