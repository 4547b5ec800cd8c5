//! Batches → CSV.

use std::io::Write;

use arrow::record_batch::RecordBatch;

use crate::connectors::files::codec::write_failed;
use crate::connectors::files::value::Printer;
use crate::data::{Schema, Type};
use crate::define::pipeline::CsvDialect;
use crate::failure::Failure;

/// Text gathered before it is handed on.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes CSV of one dialect. NULL is the dialect's first null word, unquoted; a text that could be taken for it stands in quotes.
pub(in crate::connectors::files) struct CsvWriter<W> {
    path: String,
    out: W,
    schema: Schema,
    dialect: CsvDialect,
    null: Vec<u8>,
    text: Vec<u8>,
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
        let mut writer = Self {
            path: path.to_owned(),
            out,
            schema: schema.clone(),
            dialect: dialect.clone(),
            null,
            text: Vec::new(),
            value: Vec::new(),
        };
        if header && dialect.header {
            for (place, column) in schema.columns.iter().enumerate() {
                writer.value.clear();
                writer.value.extend_from_slice(column.name.as_bytes());
                writer.field(place)?;
            }
            writer.text.push(b'\n');
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
                    self.text.push(self.dialect.delimiter);
                }
                if printer.is_null(row) {
                    self.text.extend_from_slice(&self.null);
                } else if *safe {
                    printer.print(row, &mut self.text);
                } else {
                    self.value.clear();
                    printer.print(row, &mut self.value);
                    self.field(place)?;
                }
            }
            self.text.push(b'\n');
            if self.text.len() >= BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Hands on what was gathered, and the output.
    pub(in crate::connectors::files) fn end(mut self) -> Result<W, Failure> {
        self.flush()?;
        Ok(self.out)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_all(&self.text).map_err(|error| write_failed(&self.path, error))?;
        self.text.clear();
        Ok(())
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
            self.text.push(self.dialect.delimiter);
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
            self.text.extend_from_slice(value);
            return Ok(());
        }
        let Some(quote) = self.dialect.quote else {
            if !value.iter().any(special) && !self.dialect.null.iter().any(|null| null.as_bytes() == value.as_slice()) {
                self.text.extend_from_slice(value);
                return Ok(());
            }
            let column = &self.schema.columns[place].name;
            let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
            return Err(Failure::bad_rows(format!(
                "column `{column}` of `{}`: the value `{shown}` needs quotes, and the dialect has none",
                self.path
            ))
            .help("set `csv: { quote: '\"' }`, or another delimiter or null word"));
        };
        self.text.push(quote);
        for byte in value {
            if *byte == quote || Some(*byte) == self.dialect.escape {
                self.text.push(self.dialect.escape.unwrap_or(quote));
            }
            self.text.push(*byte);
        }
        self.text.push(quote);
        Ok(())
    }
}
