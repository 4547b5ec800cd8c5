//! One answer → rows, by the readers of files.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::body::Body;
use crate::connectors::ahead::Ahead;
use crate::connectors::files::{CsvRows, NdjsonRows, header};
use crate::connectors::text::{ObjectSample, Rows, RowsOut, Wanted, take, with_declared};
use crate::data::text::Guess;
use crate::data::text::json::{self, Value};
use crate::data::{BatchLimit, Chunk, Column, Schema};
use crate::define::pipeline::{CursorFrom, HttpBody, HttpSource, PaginateBy};
use crate::failure::{Failure, FailureKind};

/// What is read out of answers.
pub(super) struct Reader {
    /// What was asked for.
    pub spec: Arc<HttpSource>,
    /// Every column that is known.
    pub all: Schema,
    /// The columns that are read.
    pub schema: Schema,
    /// Which of these were guessed.
    pub guessed: Vec<bool>,
    /// How large chunks may grow.
    pub limit: BatchLimit,
}

/// What a page was, once it is read.
#[derive(Default)]
pub(super) struct Page {
    /// Its last chunk, which was held back for its position.
    pub last: Option<Chunk>,
    /// Rows, bad ones too.
    pub rows: u64,
    /// The value that asks for the next page, when the page holds it.
    pub next: Option<String>,
    /// Changes when any row does.
    pub hash: u64,
}

impl Reader {
    /// Reads one answer, and hands on all of its chunks but the last.
    pub(super) fn read(&self, label: &str, body: Body, to: &Ahead) -> Result<Page, Failure> {
        let (content, count) = body.content().map_err(|error| cut(label, &error))?;
        let mut page = Page::default();
        let hash = Arc::<Mutex<Xxh3>>::default();
        match &self.spec.body {
            HttpBody::Json(pointer) => {
                let text = text(label, content, self.spec.max_body)?;
                let pointed = pointed(&self.spec, &text);
                let records = Records::find(label, text, pointer)?;
                page.next = pointed.or_else(|| in_last(&self.spec, records.last()?));
                hash.lock().unwrap_or_else(PoisonError::into_inner).update(records.text[records.whole.clone()].as_bytes());
                let wanted = Wanted::of(&self.schema, &self.guessed, false);
                let rows = JsonRows { records, label, all: self.all_names(), wanted, place: 0, bytes: count.load(Ordering::Relaxed) };
                self.give(rows, Vec::new(), to, &mut page)?;
            }
            HttpBody::Ndjson => {
                let mut rows = NdjsonRows::open(label, Box::new(Hashing { content, hash: Arc::clone(&hash) }), count)?;
                rows.want((self.spec.sample > 0).then_some(&self.all), &self.schema, &self.guessed, false);
                let rows = self.give(rows, Vec::new(), to, &mut page)?;
                page.next = std::str::from_utf8(rows.last_line()).ok().and_then(|row| in_last(&self.spec, row));
            }
            HttpBody::Csv(dialect) => {
                let rows = CsvRows::open(label, Box::new(Hashing { content, hash: Arc::clone(&hash) }), count, dialect)?;
                let places = rows.places(&self.schema)?;
                self.give(rows, places, to, &mut page)?;
            }
        }
        page.hash = hash.lock().unwrap_or_else(PoisonError::into_inner).digest();
        Ok(page)
    }

    fn give<R: Rows>(&self, mut rows: R, places: Vec<usize>, to: &Ahead, page: &mut Page) -> Result<R, Failure> {
        let mut out = RowsOut::new(&self.schema, &self.guessed, places, self.limit);
        while let Some(chunk) = rows.fill(&mut out)? {
            page.rows += (chunk.batch.num_rows() + chunk.rejects.len()) as u64;
            if let Some(earlier) = page.last.replace(chunk) {
                to.give_blocking(earlier)?;
            }
        }
        Ok(rows)
    }

    /// The members that a row may have; `None` when others are passed over.
    fn all_names(&self) -> Option<Vec<String>> {
        (self.spec.sample > 0).then(|| self.all.columns.iter().map(|column| column.name.clone()).collect())
    }
}

/// What an answer says of its next page.
fn pointed(spec: &HttpSource, text: &str) -> Option<String> {
    let pointer = match &spec.paginate.as_ref()?.by {
        PaginateBy::Link(pointer) | PaginateBy::Cursor { from: CursorFrom::Answer(pointer), .. } => pointer,
        _ => return None,
    };
    plain(json::at_pointer(text, pointer)?)
}

/// What a page's last row says of the next page.
fn in_last(spec: &HttpSource, row: &str) -> Option<String> {
    let PaginateBy::Cursor { from: CursorFrom::LastRow(column), .. } = &spec.paginate.as_ref()?.by else { return None };
    member(row, column)
}

/// A member of an object, when it is a value.
pub(super) fn member(row: &str, column: &str) -> Option<String> {
    let mut found = None;
    json::members(row, |name, value| {
        if name == column {
            found = plain(value);
        }
        Ok(())
    })
    .ok()?;
    found
}

/// The rows of a JSON answer.
struct Records {
    text: String,
    /// Where their array is.
    whole: Range<usize>,
    /// Where each of them is.
    rows: Vec<Range<usize>>,
}

impl Records {
    /// Finds the array below a JSON pointer. An empty answer holds no rows.
    fn find(label: &str, text: String, pointer: &str) -> Result<Self, Failure> {
        if text.trim().is_empty() {
            return Ok(Self { text, whole: 0..0, rows: Vec::new() });
        }
        json::check(&text).map_err(|why| Failure::permanent(format!("{label} was answered with something that is not JSON: {why}")))?;
        let array = match json::at_pointer(&text, pointer) {
            Some(Value::Nested(array)) if array.starts_with('[') => array,
            found => return Err(no_array(label, &text, pointer, found)),
        };
        let place = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            start..start + part.len()
        };
        let rows = json::items(array).map(|row| place(row.raw())).collect();
        let whole = place(array);
        Ok(Self { text, whole, rows })
    }

    fn last(&self) -> Option<&str> {
        self.rows.last().map(|row| &self.text[row.clone()])
    }
}

fn no_array(label: &str, text: &str, pointer: &str, found: Option<Value<'_>>) -> Failure {
    let place = if pointer.is_empty() { "the answer".to_owned() } else { format!("`{pointer}` of the answer") };
    let what = match found {
        None => "is not there",
        Some(Value::Nested(_)) => "is an object",
        Some(_) => "is a single value",
    };
    let mut names = Vec::new();
    let _ = json::members(text, |name, value| {
        if matches!(value, Value::Nested(array) if array.starts_with('[')) {
            names.push(format!("`records: /{}`", name.replace('~', "~0").replace('/', "~1")));
        }
        Ok(())
    });
    let help = match names.as_slice() {
        [] => "`records` names the array of rows in the answer, as a JSON pointer".to_owned(),
        names => format!("write {}", names.join(" or ")),
    };
    Failure::permanent(format!("{label}: {place} {what}, and not an array of rows")).help(help)
}

/// Rows of a JSON array.
struct JsonRows<'a> {
    records: Records,
    label: &'a str,
    all: Option<Vec<String>>,
    wanted: Vec<Wanted>,
    /// The next row.
    place: usize,
    /// Bytes of the answer that no chunk has been told yet.
    bytes: u64,
}

impl Rows for JsonRows<'_> {
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure> {
        while !out.is_full()
            && let Some(row) = self.records.rows.get(self.place)
        {
            self.place += 1;
            take(
                &self.records.text[row.clone()],
                format_args!("{} row {}", self.label, self.place),
                self.all.as_deref(),
                &self.wanted,
                out,
            );
        }
        out.take(std::mem::take(&mut self.bytes))
    }
}

/// Hashes what is read on its way by.
struct Hashing {
    content: Box<dyn Read + Send>,
    hash: Arc<Mutex<Xxh3>>,
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(into)?;
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).update(&into[..length]);
        Ok(length)
    }
}

/// What is known of columns before rows are read.
#[derive(Default)]
pub(super) struct Sample {
    objects: ObjectSample,
    /// The columns of CSV, and what their values could be.
    header: Option<(Vec<String>, Vec<Guess>)>,
    /// Rows that were looked at.
    pub rows: usize,
}

impl Sample {
    /// Looks at an answer, up to so many rows.
    pub(super) fn see(&mut self, spec: &HttpSource, label: &str, body: Body) -> Result<Page, Failure> {
        let (content, count) = body.content().map_err(|error| cut(label, &error))?;
        let most = spec.sample - self.rows;
        let before = self.rows;
        let mut page = Page::default();
        match &spec.body {
            HttpBody::Json(pointer) => {
                let text = text(label, content, spec.max_body)?;
                let pointed = pointed(spec, &text);
                let records = Records::find(label, text, pointer)?;
                for row in records.rows.iter().take(most) {
                    // A row that is no object is left for the read to report.
                    let _ = json::members(&records.text[row.clone()], |name, value| {
                        self.objects.see(&name, value);
                        Ok(())
                    });
                    self.rows += 1;
                }
                page.next = pointed.or_else(|| in_last(spec, records.last()?));
            }
            HttpBody::Ndjson => {
                let mut rows = NdjsonRows::open(label, content, count)?;
                self.rows += rows.sample(&mut self.objects, most)?.rows as usize;
                page.next = std::str::from_utf8(rows.last_line()).ok().and_then(|row| in_last(spec, row));
            }
            HttpBody::Csv(dialect) => {
                let mut rows = CsvRows::open(label, content, count, dialect)?;
                let names = header(&rows).to_vec();
                let (_, guesses) = self.header.get_or_insert_with(|| (names.clone(), vec![Guess::default(); names.len()]));
                self.rows += rows.sample(guesses, most)?.rows as usize;
            }
        }
        page.rows = (self.rows - before) as u64;
        // Never that of the page before, as long as there are rows: the read looks for pages that come again.
        page.hash = self.rows as u64;
        Ok(page)
    }

    /// The columns, and which of their types are guesses: those of the sample, then the declared ones that it did not hold.
    pub(super) fn columns(self, spec: &HttpSource) -> (Schema, Vec<bool>) {
        let found = match self.header {
            Some((names, guesses)) => names.into_iter().zip(guesses).map(|(name, guess)| Column::new(name, guess.decide())).collect(),
            None => self.objects.decide(),
        };
        with_declared(found, spec.columns.iter().map(|(name, ty)| (name, ty)))
    }
}

/// All of a JSON answer.
fn text(label: &str, content: Box<dyn Read + Send>, most: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    content.take(most + 1).read_to_end(&mut bytes).map_err(|error| cut(label, &error))?;
    if bytes.len() as u64 > most {
        return Err(Failure::permanent(format!("the answer to {label} is larger than {most} bytes"))
            .help("ask for it in pages, raise `max_body`, or use a form that is read piece by piece: NDJSON or CSV"));
    }
    String::from_utf8(bytes).map_err(|_| Failure::permanent(format!("the answer to {label} is not UTF-8")))
}

/// The text of a value that is one; `None` for what stands for nothing.
fn plain(value: Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => json::string(text).map(|text| text.into_owned()).filter(|text| !text.is_empty()),
        Value::Number(text) => Some(text.to_owned()),
        Value::Null | Value::Bool(_) | Value::Nested(_) => None,
    }
}

/// A body that did not arrive, or is not what it says.
fn cut(label: &str, error: &io::Error) -> Failure {
    let kind = if error.kind() == io::ErrorKind::ConnectionAborted { FailureKind::Transient } else { FailureKind::Permanent };
    Failure::new(kind, format!("the answer to {label} cannot be read: {error}"))
}
