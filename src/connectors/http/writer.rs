//! One split's rows → requests.
//!
//! A batch that the server refuses for its content is cut in halves, and these again, until the rows at fault are found. A request that
//! fails in a way that may pass is sent again a few times here, since only it would have to be; after that the failure is the stage's to retry.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Method};
use xxhash_rust::xxh3::Xxh3;

use super::api::{Api, Sent};
use super::changes::Changes;
use super::record::{Record, Standing};
use crate::connectors::files::JsonObjects;
use crate::connectors::refused::Halves;
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::data::change;
use crate::data::text::Printer;
use crate::data::{Reject, Schema};
use crate::define::pipeline::{HttpMethod, HttpPayload, HttpSink};
use crate::failure::{Failure, FailureKind};
use crate::load::template::{KeyTemplate, Part};

/// Tries of one request before its failure is the stage's.
const TRIES: u32 = 4;
/// The wait after the first of them; each is four times as long as the one before.
const WAIT: Duration = Duration::from_millis(100);
/// A server that wants to be left alone for longer holds up the stage, which gives its place to others meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The longest wait between tries of a request that the server may be at work on.
const BETWEEN: Duration = Duration::from_secs(2);

/// Writes one split.
pub(super) struct RequestWriter {
    api: Arc<Api>,
    spec: Arc<HttpSink>,
    load: Load,
    record: Record,
    standing: Standing,
    objects: JsonObjects,
    /// The mark that this worker went on from.
    before: Option<Mark>,
    split: String,
    waiting: Waiting,
    /// Rows of the split that came before those that wait.
    sent: u64,
    refused: Vec<Reject>,
    taken: Committed,
}

/// Rows that wait to be sent.
#[derive(Default)]
struct Waiting {
    /// Their texts, one behind the other.
    text: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Where each of them goes, when they go to places of their own.
    paths: Vec<String>,
    /// How each of them is sent, when that differs.
    methods: Vec<Method>,
    /// Those that cannot be sent without the one before.
    tied: BTreeSet<usize>,
}

impl Waiting {
    fn row(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }
}

impl RequestWriter {
    /// Sends nothing yet.
    pub(super) fn new(
        api: Arc<Api>,
        spec: Arc<HttpSink>,
        load: &Load,
        split: &str,
        from: Option<&Mark>,
        record: Record,
        standing: Standing,
    ) -> Self {
        Self {
            objects: JsonObjects::new(&load.schema),
            api,
            spec,
            load: load.clone(),
            record,
            standing,
            before: from.cloned(),
            split: split.to_owned(),
            waiting: Waiting::default(),
            sent: from.map_or(0, |mark| mark.rows + mark.rejects),
            refused: Vec::new(),
            taken: Committed::default(),
        }
    }

    /// Takes rows from this one on, until they fill a request. Gives the row behind them.
    fn take(&mut self, batch: &RecordBatch, from: usize) -> Result<usize, Failure> {
        let schema = &self.load.schema;
        let columns = batch.columns().iter().zip(&schema.columns);
        let columns: Vec<Printer<'_>> = columns.map(|(array, column)| Printer::new(array, &column.ty)).collect();
        let changes = change::Changes::of(batch).map(|rows| Changes { rows, spec: &self.spec });
        for row in from..batch.num_rows() {
            let waiting = &mut self.waiting;
            let printed = match (&changes, &self.spec.payload) {
                (Some(changes), _) => {
                    changes.check(row)?;
                    changes.print(row, &self.objects, &columns, &mut waiting.text)
                }
                (None, HttpPayload::Template(template)) => {
                    template_of(template, schema, &columns, row, &mut waiting.text);
                    Ok(())
                }
                (None, HttpPayload::Ndjson | HttpPayload::Array | HttpPayload::Object) => {
                    self.objects.print(&columns, row, &mut waiting.text)
                }
            };
            printed.map_err(|(column, what)| {
                let row = self.sent + waiting.ends.len() as u64 + 1;
                Failure::bad_rows(format!("column `{column}` of row {row} holds {what}"))
                    .help(format!("write it as text: `cast: {{ {column}: text }}`"))
            })?;
            waiting.ends.push(waiting.text.len());
            if let Some(changes) = &changes {
                if self.spec.by_place() {
                    waiting.methods.push(changes.method(row));
                }
                if changes.rows.is_moved(row) {
                    waiting.tied.insert(waiting.ends.len());
                }
            }
            if self.spec.path.constant().is_none() {
                waiting.paths.push(path_of(&self.spec.path, schema, &columns, row)?);
            }
            if self.is_full() {
                return Ok(row + 1);
            }
        }
        Ok(batch.num_rows())
    }

    /// Whether the rows that wait fill a request.
    fn is_full(&self) -> bool {
        let waiting = &self.waiting;
        waiting.ends.len() as u64 >= self.spec.rows || waiting.text.len() as u64 >= self.spec.bytes
    }

    /// Sends what waits.
    async fn send(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut halves = Halves::of(waiting.ends.len());
        while let Some(part) = halves.next() {
            let Some(failure) = self.request(&waiting, part.clone()).await? else {
                self.taken.rows += part.len() as u64;
                self.taken.bytes += (waiting.ends[part.end - 1] - part.start.checked_sub(1).map_or(0, |row| waiting.ends[row])) as u64;
                continue;
            };
            if !halves.cut(&part, |row| waiting.tied.contains(&row)) {
                self.refused.extend(part.map(|row| Reject {
                    origin: format!("row {} of split {}", self.sent + row as u64 + 1, self.split),
                    reason: failure.to_string(),
                    row: String::from_utf8_lossy(waiting.row(row)).into_owned(),
                }));
            }
        }
        self.sent += waiting.ends.len() as u64;
        Ok(())
    }

    /// Sends some rows as one request, until it is taken. Gives the reason when their content is refused.
    async fn request(&self, waiting: &Waiting, rows: Range<usize>) -> Result<Option<Failure>, Failure> {
        let body = self.body(waiting, rows.clone());
        let path = waiting.paths.get(rows.start).map_or_else(|| self.spec.path.constant().unwrap_or_default(), String::as_str);
        let method = waiting.methods.get(rows.start).cloned().unwrap_or_else(|| match self.spec.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Patch => Method::PATCH,
        });
        let mut headers = HeaderMap::new();
        let key = HeaderValue::from_str(&self.key(&rows, &body)).map_err(|_| Failure::permanent("a key cannot stand in a header"))?;
        let body = if method == Method::DELETE { Bytes::new() } else { body };
        if !body.is_empty() {
            let media = if self.spec.payload == HttpPayload::Ndjson { "application/x-ndjson" } else { "application/json" };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        }
        let query = self.spec.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let url = self.api.url(path, query);
        let (mut wait, mut at_work) = (WAIT, WAIT);
        let mut tries = 1;
        loop {
            let key = (&key, self.standing.taken_over);
            let answer = self.api.post(method.clone(), url.clone(), key, headers.clone(), Body::from(body.clone())).await;
            let (failure, refused) = match answer {
                Ok(Sent::Taken) => return Ok(None),
                Ok(Sent::AtWork(failure)) => {
                    let pause = failure.retry_after.unwrap_or(at_work);
                    if pause > LONGEST_WAIT {
                        return Err(failure);
                    }
                    tokio::time::sleep(pause).await;
                    at_work = BETWEEN.min(at_work * 2);
                    continue;
                }
                Ok(Sent::Refused(failure)) => (failure, true),
                Err(failure) => (failure, false),
            };
            let pause = failure.retry_after.unwrap_or(wait);
            if failure.kind != FailureKind::Transient || tries >= TRIES || pause > LONGEST_WAIT {
                return if refused { Ok(Some(failure)) } else { Err(failure) };
            }
            tokio::time::sleep(pause).await;
            wait *= 4;
            tries += 1;
        }
    }

    fn body(&self, waiting: &Waiting, rows: Range<usize>) -> Bytes {
        let mut body = Vec::new();
        let (open, between, close): (&[u8], &[u8], &[u8]) = match self.spec.payload {
            HttpPayload::Ndjson => (b"", b"\n", b"\n"),
            HttpPayload::Array => (b"[", b",", b"]"),
            HttpPayload::Object | HttpPayload::Template(_) => (b"", b"", b""),
        };
        body.extend_from_slice(open);
        for row in rows.clone() {
            if row > rows.start {
                body.extend_from_slice(between);
            }
            body.extend_from_slice(waiting.row(row));
        }
        body.extend_from_slice(close);
        body.into()
    }

    /// The same whenever the same rows of the same load are sent again, and another one otherwise: a server that knows it already must never
    /// drop rows that it does not have.
    fn key(&self, rows: &Range<usize>, body: &[u8]) -> String {
        let mut hash = Xxh3::new();
        let key = &self.load.key;
        let first = self.sent + rows.start as u64;
        for part in [&self.standing.run, &key.pipeline, &key.stage, &key.output.to_string(), &self.split, &first.to_string()] {
            hash.update(part.as_bytes());
            hash.update(b"\0");
        }
        hash.update(body);
        format!("haul-{:032x}", hash.digest128())
    }
}

/// A template with each column's value as JSON.
fn template_of(template: &KeyTemplate, schema: &Schema, columns: &[Printer<'_>], row: usize, out: &mut Vec<u8>) {
    for part in template.parts() {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Column(name) => {
                if let Some((place, column)) = schema.find(name) {
                    columns[place].print_json(row, &column.ty, out);
                }
            }
        }
    }
}

/// A path with each column's value in its place, escaped. A row without one has no place to go.
fn path_of(path: &KeyTemplate, schema: &Schema, columns: &[Printer<'_>], row: usize) -> Result<String, Failure> {
    let mut text = String::new();
    for part in path.parts() {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Column(name) => {
                let mut value = Vec::new();
                match schema.find(name) {
                    Some((place, _)) if !columns[place].is_null(row) => columns[place].print(row, &mut value),
                    _ => {}
                }
                if value.is_empty() || value == b"." || value == b".." {
                    return Err(Failure::bad_rows(format!(
                        "the column `{name}` of a row is NULL, empty or dots only, and stands in its path"
                    ))
                    .help("leave such rows out with a `filter`"));
                }
                for byte in value {
                    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                        text.push(char::from(byte));
                    } else {
                        text.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
        }
    }
    Ok(text)
}

#[async_trait]
impl Writer for RequestWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        if self.standing.done {
            return Ok(());
        }
        let mut row = 0;
        while row < batch.num_rows() {
            row = self.take(&batch, row)?;
            if self.is_full() {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        self.send().await?;
        Ok(std::mem::take(&mut self.refused))
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        self.record.advance(&self.load, self.before.as_ref(), &mark).await?;
        self.sent = mark.rows + mark.rejects;
        self.before = Some(mark);
        Ok(std::mem::take(&mut self.taken))
    }

    async fn commit(self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        if !self.standing.done {
            self.record.advance(&self.load, self.before.as_ref(), &mark).await?;
        }
        Ok(self.taken)
    }
}
