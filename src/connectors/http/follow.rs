//! Feeds: pages that are asked for again and again, and answers that never end.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};

use super::api::Api;
use super::frames::{Frames, Item};
use super::page::Reader;
use super::pages::{Pages, Place};
use super::socket::Socket;
use super::source::fetch;
use crate::connectors::ahead::{Ahead, ahead};
use crate::connectors::text::{RowsOut, Wanted, take};
use crate::connectors::{Reading, Split, SplitGoal, Splits};
use crate::data::{BatchStream, Chunk, Lag, Position, Schema};
use crate::define::pipeline::{CursorFrom, HttpFollow, HttpSource, PaginateBy};
use crate::failure::Failure;

/// A feed that is followed.
pub(super) struct Following {
    pub api: Arc<Api>,
    pub reader: Arc<Reader>,
    pub follow: HttpFollow,
}

/// What is promised of a feed, for plans.
pub(super) fn promise(spec: &HttpSource, follow: &HttpFollow) -> String {
    let by_cursor = spec.paginate.is_some();
    match follow {
        HttpFollow::Poll(every) => format!("asked every {every:?} for what is behind the last cursor"),
        HttpFollow::Ndjson if by_cursor => "one long answer; goes on behind the last cursor".to_owned(),
        HttpFollow::Events => "events; goes on behind the last id, and at most once where events have none".to_owned(),
        HttpFollow::Ndjson => "one long answer; at most once: rows that come while nobody listens are lost".to_owned(),
        HttpFollow::WebSocket => "messages; at most once: those that come while nobody listens are lost".to_owned(),
    }
}

#[async_trait]
impl Reading for Following {
    fn schema(&self) -> &Schema {
        &self.reader.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        let label = self.reader.spec.path.clone();
        Ok(Splits::whole(label))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Events and messages have no end, and nothing says that there are no more for now.
    fn catches_up(&self) -> bool {
        !matches!(self.follow, HttpFollow::Events | HttpFollow::WebSocket)
    }

    /// Never ends by itself.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let (api, reader, follow, from) = (Arc::clone(&self.api), Arc::clone(&self.reader), self.follow.clone(), from.cloned());
        Ok(ahead(|to| async move {
            let pages = Pages::new(&api, &reader.spec, from.as_ref())?;
            match follow {
                HttpFollow::Poll(every) => poll(&api, &reader, pages, every, &to).await,
                HttpFollow::Ndjson => listen(&api, &reader, pages, false, &to).await,
                HttpFollow::Events => listen(&api, &reader, pages, true, &to).await,
                HttpFollow::WebSocket => {
                    let mut socket = Socket::open(&api, &reader.spec).await?;
                    let mut rows = FeedRows::new(&reader, pages);
                    loop {
                        for text in socket.next().await? {
                            rows.take(Item { text, id: None }, &to).await?;
                        }
                        rows.give(&to).await?;
                    }
                }
            }
        }))
    }
}

/// Asks for page after page, and waits when the last one had nothing new.
async fn poll(api: &Api, reader: &Arc<Reader>, mut pages: Pages<'_>, every: Duration, to: &Ahead) -> Result<(), Failure> {
    loop {
        let (reading, ahead) = (Arc::clone(reader), to.clone());
        let (_, mut page) = fetch(api, &reader.spec, &pages, move |label, body| reading.read(label, body, &ahead)).await?;
        let next = page.next.take().map(Place::Cursor);
        let more = page.rows > 0 && next.as_ref() != Some(&pages.place);
        match next {
            Some(next) => pages.place = next,
            None if page.rows > 0 => {
                let message = format!("the answer to {} has rows, and no cursor to go on from", reader.spec.path);
                return Err(Failure::permanent(message).help("check `next` or `column` of `paginate`"));
            }
            None => {}
        }
        let mut last = page.last.take().unwrap_or_else(|| Chunk::of(RecordBatch::new_empty(reader.schema.to_arrow())));
        last.position = Some(pages.position()?);
        last.lag = Some(Lag { caught_up: !more, behind_ms: (!more).then_some(0), bytes: None, kept: None });
        to.give(last).await?;
        if !more {
            tokio::time::sleep(every).await;
        }
    }
}

/// Reads an answer that never ends, until it does.
async fn listen(api: &Api, reader: &Reader, pages: Pages<'_>, events: bool, to: &Ahead) -> Result<(), Failure> {
    let accept = if events { "text/event-stream" } else { "application/x-ndjson, application/jsonl;q=0.9, */*;q=0.1" };
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
    if let (true, Place::Cursor(id)) = (events, &pages.place) {
        let id = HeaderValue::from_str(id).map_err(|_| Failure::permanent("the last event's id cannot stand in a header"))?;
        headers.insert(HeaderName::from_static("last-event-id"), id);
    }
    let mut answer = api.get(pages.url()?, headers).await?;
    let mut frames = Frames::new(events);
    let mut rows = FeedRows::new(reader, pages);
    loop {
        let piece = answer.next().await.map_err(|failure| failure.retry_after(frames.retry))?;
        let Some(piece) = piece else {
            if !events {
                if answer.is_measured() {
                    // The last line of a whole answer needs no end.
                    frames.push(b"\n")?;
                }
                while let Some(item) = frames.next() {
                    rows.take(item, to).await?;
                }
                rows.caught_up(to).await?;
            }
            return Err(Failure::transient("the server ended the feed").retry_after(frames.retry));
        };
        frames.push(&piece)?;
        while let Some(item) = frames.next() {
            rows.take(item, to).await?;
        }
        rows.give(to).await?;
    }
}

/// The rows of a feed, gathered in chunks with the place behind them.
struct FeedRows<'a> {
    out: RowsOut,
    schema: &'a Schema,
    wanted: Vec<Wanted>,
    pages: Pages<'a>,
    /// The member of a row that is its cursor.
    cursor: Option<&'a str>,
    label: &'a str,
    count: u64,
    bytes: u64,
}

impl<'a> FeedRows<'a> {
    fn new(reader: &'a Reader, pages: Pages<'a>) -> Self {
        let spec: &'a HttpSource = &reader.spec;
        let cursor = match spec.paginate.as_ref().map(|paginate| &paginate.by) {
            Some(PaginateBy::Cursor { from: CursorFrom::LastRow(column), .. }) => Some(column.as_str()),
            _ => None,
        };
        let out = RowsOut::new(&reader.schema, &reader.guessed, Vec::new(), reader.limit);
        Self {
            out,
            schema: &reader.schema,
            wanted: Wanted::of(&reader.schema, &reader.guessed, false),
            pages,
            cursor,
            label: &spec.path,
            count: 0,
            bytes: 0,
        }
    }

    async fn take(&mut self, item: Item, to: &Ahead) -> Result<(), Failure> {
        if super::note::is_note(&item.text) {
            self.pages.place = item.id.map_or_else(|| self.pages.place.clone(), Place::Cursor);
            return super::note::heed(&item.text);
        }
        self.count += 1;
        self.bytes += item.text.len() as u64;
        take(&item.text, format_args!("{} row {} of this connection", self.label, self.count), None, &self.wanted, &mut self.out);
        let cursor = item.id.or_else(|| super::page::member(&item.text, self.cursor?));
        if let Some(cursor) = cursor {
            self.pages.place = Place::Cursor(cursor);
        }
        if self.out.is_full() { self.give(to).await } else { Ok(()) }
    }

    /// Hands on what was gathered, and says that it is all there was.
    async fn caught_up(&mut self, to: &Ahead) -> Result<(), Failure> {
        let mut chunk = match self.out.take(std::mem::take(&mut self.bytes))? {
            Some(chunk) => chunk,
            None => Chunk::of(RecordBatch::new_empty(self.schema.to_arrow())),
        };
        chunk.position = Some(self.pages.position()?);
        chunk.lag = Some(Lag { caught_up: true, ..Lag::default() });
        to.give(chunk).await
    }

    /// Hands on what was gathered.
    async fn give(&mut self, to: &Ahead) -> Result<(), Failure> {
        let Some(mut chunk) = self.out.take(std::mem::take(&mut self.bytes))? else { return Ok(()) };
        chunk.position = Some(self.pages.position()?);
        chunk.lag = Some(Lag::default());
        to.give(chunk).await
    }
}
