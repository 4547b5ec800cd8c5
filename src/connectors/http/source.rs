//! Answers as a source: which columns, which pages.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use tokio::sync::OnceCell;
use url::Url;

use super::api::Api;
use super::body::{Body, body, compression, receive};
use super::follow::{Following, promise};
use super::page::{Reader, Sample};
use super::pages::Pages;
use crate::connectors::ahead::{Ahead, ahead};
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits, requested};
use crate::data::{BatchStream, Chunk, Position, Schema};
use crate::define::pipeline::{Compression, HttpBody, HttpSource, PaginateBy};
use crate::failure::Failure;
use crate::tasks;

impl Api {
    /// What a stage reads.
    pub fn source(self: &Arc<Self>, spec: &HttpSource) -> Arc<dyn Source> {
        Arc::new(AnswerSource { api: Arc::clone(self), spec: Arc::new(spec.clone()), found: OnceCell::new() })
    }
}

/// The rows of some answers. Columns are looked for once.
struct AnswerSource {
    api: Arc<Api>,
    spec: Arc<HttpSource>,
    found: OnceCell<(Schema, Vec<bool>)>,
}

impl AnswerSource {
    async fn columns(&self) -> Result<&(Schema, Vec<bool>), Failure> {
        self.found.get_or_try_init(|| self.look()).await
    }

    async fn look(&self) -> Result<(Schema, Vec<bool>), Failure> {
        let mut sample = Sample::default();
        let mut pages = Pages::new(&self.api, &self.spec, None)?;
        while sample.rows < self.spec.sample {
            let (spec, mut seen) = (Arc::clone(&self.spec), std::mem::take(&mut sample));
            let (from, page) = fetch(&self.api, &self.spec, &pages, move |label, body| Ok((seen.see(&spec, label, body)?, seen))).await?;
            let (page, seen) = page;
            sample = seen;
            if !pages.go_on(&from.url, &from.headers, &page)? {
                break;
            }
        }
        if sample.rows == 0 && self.spec.columns.is_empty() {
            return Err(Failure::permanent(format!("GET {} gave no rows, so its columns are not known", self.spec.path))
                .help("declare them with `columns: { name: type }`, or check `records`"));
        }
        Ok(sample.columns(&self.spec))
    }
}

#[async_trait]
impl Source for AnswerSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let (schema, _) = self.columns().await?;
        if let Some(follow) = &self.spec.follow {
            let consistency = promise(&self.spec, follow);
            return Ok(Description { schema: schema.clone(), key: Vec::new(), rows: None, bytes: None, wire: None, consistency });
        }
        let by = match self.spec.paginate.as_ref().map(|paginate| &paginate.by) {
            None => "one answer".to_owned(),
            Some(PaginateBy::LinkHeader | PaginateBy::Link(_)) => "pages by link".to_owned(),
            Some(PaginateBy::Cursor { param, .. }) => format!("pages by cursor {param}"),
            Some(PaginateBy::Offset(param)) => format!("pages by {param}"),
            Some(PaginateBy::Page(param, _)) => format!("pages by number {param}"),
        };
        let consistency = match self.spec.paginate {
            None => by,
            Some(_) => format!("{by}; rows that change meanwhile may come twice or not at all"),
        };
        Ok(Description { schema: schema.clone(), key: Vec::new(), rows: None, bytes: None, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        if request.filter.is_some() {
            return Err(Failure::permanent("an HTTP API cannot filter rows by SQL"));
        }
        let (all, guessed) = self.columns().await?;
        let schema = requested(all, &request)?;
        let guessed = schema.columns.iter().map(|column| {
            let (place, own) = all.find(&column.name)?;
            // A column that is asked for as text is read as it is written.
            Some(guessed[place] && own.ty == column.ty)
        });
        let guessed = guessed.map(|guessed| guessed.unwrap_or(false)).collect();
        let reader = Reader { spec: Arc::clone(&self.spec), all: all.clone(), schema, guessed, limit: request.limit };
        let (api, reader) = (Arc::clone(&self.api), Arc::new(reader));
        Ok(match self.spec.follow.clone() {
            Some(follow) => Arc::new(Following { api, reader, follow }),
            None => Arc::new(AnswerReading { api, reader }),
        })
    }
}

/// A walk through the pages. They are read one after the other: only a page tells the next.
struct AnswerReading {
    api: Arc<Api>,
    reader: Arc<Reader>,
}

#[async_trait]
impl Reading for AnswerReading {
    fn schema(&self) -> &Schema {
        &self.reader.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        let label = format!("GET {}", self.reader.spec.path);
        Ok(Splits::whole(label))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let (api, reader, from) = (Arc::clone(&self.api), Arc::clone(&self.reader), from.cloned());
        Ok(ahead(|to| async move { walk(&api, &reader, from.as_ref(), &to).await }))
    }
}

async fn walk(api: &Api, reader: &Arc<Reader>, from: Option<&Position>, to: &Ahead) -> Result<(), Failure> {
    let mut pages = Pages::new(api, &reader.spec, from)?;
    loop {
        let (reading, ahead) = (Arc::clone(reader), to.clone());
        let (from, mut page) = fetch(api, &reader.spec, &pages, move |label, body| reading.read(label, body, &ahead)).await?;
        let goes_on = pages.go_on(&from.url, &from.headers, &page)?;
        let mut last = page.last.take().unwrap_or_else(|| Chunk::of(RecordBatch::new_empty(reader.schema.to_arrow())));
        last.position = goes_on.then(|| pages.position()).transpose()?;
        to.give(last).await?;
        if !goes_on {
            return Ok(());
        }
    }
}

/// Where an answer came from, and what stood above its body.
pub(super) struct Origin {
    url: Url,
    headers: HeaderMap,
}

/// Asks for the next page, and reads its body on a thread that may block while it still arrives.
pub(super) async fn fetch<T: Send + 'static>(
    api: &Api,
    spec: &HttpSource,
    pages: &Pages<'_>,
    work: impl FnOnce(&str, Body) -> Result<T, Failure> + Send + 'static,
) -> Result<(Origin, T), Failure> {
    let mut answer = api.get(pages.url()?, asking(&spec.body)).await?;
    let origin = Origin { url: answer.url().clone(), headers: answer.headers().clone() };
    let label = match pages.label() {
        None => format!("GET {}", spec.path),
        Some(place) => format!("GET {} {place}", spec.path),
    };
    let first = answer.next().await.map_err(|failure| failure.during(&label))?;
    // JSON tells its end by itself, and so does what is compressed.
    let tells = matches!(spec.body, HttpBody::Json(_)) || first.as_ref().is_none_or(|piece| compression(piece) != Compression::Plain);
    if !tells {
        answer.may_be_read().map_err(|failure| failure.during(&label))?;
    }
    let (sender, body) = body();
    let work = tasks::start_blocking(move || work(&label, body));
    receive(first, &mut answer, sender).await;
    Ok((origin, tasks::joined(work.await)?))
}

/// The headers that say what is wanted.
fn asking(body: &HttpBody) -> HeaderMap {
    let accept = match body {
        HttpBody::Json(_) => "application/json, */*;q=0.1",
        HttpBody::Ndjson => "application/x-ndjson, application/jsonl, application/json;q=0.5, */*;q=0.1",
        HttpBody::Csv(_) => "text/csv, */*;q=0.1",
    };
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept)), (ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"))])
}
