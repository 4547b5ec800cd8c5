//! CSV records → batches.

use std::io::{self, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scan::{Marks, Record, Scanner};
use crate::connectors::files::codec;
use crate::connectors::files::cuts::Cut;
use crate::connectors::files::encoding::{BYTE_ORDER_MARK, utf8};
use crate::connectors::files::look::{Sampled, column_gone};
use crate::connectors::text::{Rows, RowsOut, bad_value};
use crate::data::text::Guess;
use crate::data::{Chunk, Schema};
use crate::define::pipeline::CsvDialect;
use crate::failure::Failure;

/// The records of one CSV file, as rows of some columns.
pub(in crate::connectors) struct CsvRows {
    path: String,
    scanner: Scanner<Box<dyn Read + Send>>,
    dialect: CsvDialect,
    /// The names of the file's columns, in its own order.
    names: Vec<String>,
    count: Arc<AtomicU64>,
    counted: u64,
    /// A first record that is not a header.
    pending: Option<Record>,
}

fn marks(dialect: &CsvDialect) -> Marks {
    Marks { delimiter: dialect.delimiter, quote: dialect.quote, escape: dialect.escape }
}

/// The starts of the records of a file of UTF-8, the first one left out.
pub(in crate::connectors::files) struct Boundaries<R> {
    scanner: Scanner<Chain<Cursor<Vec<u8>>, R>>,
    /// Bytes of a byte order mark.
    skipped: u64,
}

impl<R: Read> Boundaries<R> {
    /// The content as it lies.
    pub(in crate::connectors::files) fn new(mut content: R, dialect: &CsvDialect) -> io::Result<Self> {
        let mut start = Vec::with_capacity(BYTE_ORDER_MARK.len());
        content.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut start)?;
        let skipped = if start == BYTE_ORDER_MARK { start.drain(..).len() as u64 } else { 0 };
        Ok(Self { scanner: Scanner::new(Cursor::new(start).chain(content), marks(dialect), 1), skipped })
    }

    /// The next one; `None` at the end.
    pub(in crate::connectors::files) fn next(&mut self) -> io::Result<Option<Cut>> {
        if self.scanner.next()?.is_none() {
            return Ok(None);
        }
        Ok(self.scanner.place()?.map(|(at, line)| Cut { at: at + self.skipped, line }))
    }
}

/// The names of a file's columns, without its rows.
pub(in crate::connectors) fn header(rows: &CsvRows) -> &[String] {
    &rows.names
}

impl CsvRows {
    /// Reads the header. `content` is decompressed; `count` counts the file's bytes as they lie.
    pub(in crate::connectors) fn open(
        path: &str,
        content: Box<dyn Read + Send>,
        count: Arc<AtomicU64>,
        dialect: &CsvDialect,
    ) -> Result<Self, Failure> {
        let mut rows = Self::without_header(path, content, count, dialect, &Schema::default())?;
        rows.read_header()?;
        Ok(rows)
    }

    /// A file whose first line is a row of known columns.
    pub(in crate::connectors::files) fn without_header(
        path: &str,
        content: Box<dyn Read + Send>,
        count: Arc<AtomicU64>,
        dialect: &CsvDialect,
        schema: &Schema,
    ) -> Result<Self, Failure> {
        let content = utf8(content, &dialect.encoding, path)?;
        let names = schema.columns.iter().map(|column| column.name.clone()).collect();
        Ok(Self::from_line(1, path, content, count, dialect, names))
    }

    /// The part of a file that begins with that line, which is a row of these columns. The content is UTF-8.
    pub(in crate::connectors::files) fn from_line(
        line: u64,
        path: &str,
        content: Box<dyn Read + Send>,
        count: Arc<AtomicU64>,
        dialect: &CsvDialect,
        names: Vec<String>,
    ) -> Self {
        let scanner = Scanner::new(content, marks(dialect), line);
        Self { path: path.to_owned(), scanner, dialect: dialect.clone(), names, count, counted: 0, pending: None }
    }

    fn next_record(&mut self) -> Result<Option<Record>, Failure> {
        if let Some(record) = self.pending.take() {
            return Ok(Some(record));
        }
        loop {
            let record = self.scanner.next().map_err(|error| codec::read_failed(&self.path, error))?;
            // An empty line is a NULL when there is only one column, and no row otherwise.
            match &record {
                Some(record) if self.names.len() != 1 && self.scanner.raw(record).is_empty() => {}
                _ => return Ok(record),
            }
        }
    }

    fn read_header(&mut self) -> Result<(), Failure> {
        let Some(record) = self.next_record()? else {
            return if self.dialect.header {
                Err(Failure::permanent(format!("`{}` is empty: it has no header line", self.path))
                    .help("remove the file, or set `csv: { header: false }`"))
            } else {
                Ok(())
            };
        };
        if !self.dialect.header {
            self.names = (1..=self.scanner.fields().len()).map(|place| format!("column_{place}")).collect();
            // The empty lines before it are rows of a file of one column, as those behind it are.
            if self.names.len() != 1 || !self.scanner.rewind() {
                self.pending = Some(record);
            }
            return Ok(());
        }
        let wrong = |what: String| Failure::permanent(format!("{}:{}: {what}", self.path, record.line));
        if let Some(fault) = record.fault {
            return Err(wrong(format!("in the header, {fault}")));
        }
        let mut names: Vec<String> = Vec::with_capacity(self.scanner.fields().len());
        for field in self.scanner.fields() {
            let name = std::str::from_utf8(self.scanner.content(field))
                .map_err(|_| wrong(format!("the header is not {}", self.dialect.encoding)).help("set `csv: { encoding: … }`"))?;
            if name.is_empty() {
                let failure = wrong(format!("column {} of the header has no name", names.len() + 1));
                return Err(failure.help("name it in the file, or set `csv: { header: false }` when the first line is data"));
            }
            if names.iter().any(|other| other == name) {
                return Err(wrong(format!("the header names the column `{name}` twice")).help("give each column a name of its own"));
            }
            names.push(name.to_owned());
        }
        self.names = names;
        Ok(())
    }

    /// Adds up to `most` rows to the guesses of the file's columns. Bad rows are left for the read to report.
    pub(in crate::connectors) fn sample(&mut self, guesses: &mut [Guess], most: usize) -> Result<Sampled, Failure> {
        let mut seen = Sampled::default();
        while (seen.rows as usize) < most {
            let Some(record) = self.next_record()? else { break };
            seen.rows += 1;
            seen.bytes += self.scanner.raw(&record).len() as u64 + 1;
            let fields = self.scanner.fields();
            if record.fault.is_some() || fields.len() != guesses.len() {
                continue;
            }
            for (field, guess) in fields.iter().zip(guesses.iter_mut()) {
                if let Ok(text) = std::str::from_utf8(self.scanner.content(field))
                    && (field.quoted || !self.dialect.null.iter().any(|null| null == text))
                {
                    guess.see(text);
                }
            }
        }
        Ok(seen)
    }

    /// Where each wanted column stands in this file.
    pub(in crate::connectors) fn places(&self, schema: &Schema) -> Result<Vec<usize>, Failure> {
        let place = |name: &String| self.names.iter().position(|own| own == name);
        schema.columns.iter().map(|column| place(&column.name).ok_or_else(|| column_gone(&self.path, &column.name))).collect()
    }
}

impl Rows for CsvRows {
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure> {
        let width = self.names.len();
        while !out.is_full() {
            let Some(record) = self.next_record()? else { break };
            let raw = self.scanner.raw(&record);
            let Ok(line) = std::str::from_utf8(raw) else {
                let what = format!("the line is not {}", self.dialect.encoding);
                out.reject(format_args!("{}:{}", self.path, record.line), what, &String::from_utf8_lossy(raw));
                continue;
            };
            let fields = self.scanner.fields();
            if let Some(fault) = record.fault {
                out.reject(format_args!("{}:{}", self.path, record.line), fault.to_owned(), line);
                continue;
            }
            if fields.len() != width {
                let what = format!("{} fields where the header has {width}", fields.len());
                out.reject(format_args!("{}:{}", self.path, record.line), what, line);
                continue;
            }
            let mut fault = None;
            for (column, place) in out.columns.iter_mut().zip(&out.places) {
                let field = &fields[*place];
                let text = self.scanner.text(&record, line, field);
                if !field.quoted && self.dialect.null.iter().any(|null| null == text) {
                    column.append_null();
                } else if let Err(reason) = column.append(text) {
                    column.append_null();
                    fault.get_or_insert((*place, text, reason));
                }
            }
            match fault {
                None => out.good(raw.len()),
                Some((place, text, reason)) => {
                    let what = bad_value(&self.names[place], text, &reason);
                    out.bad(format_args!("{}:{}", self.path, record.line), what, line);
                }
            }
        }
        let total = self.count.load(Ordering::Relaxed);
        let bytes = total - std::mem::replace(&mut self.counted, total);
        out.take(bytes)
    }
}
