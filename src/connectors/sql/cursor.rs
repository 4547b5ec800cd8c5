//! Following a table or query page by page: what lies behind the last row that was read, in the order of a cursor and a key.
//!
//! A page is everything after one row and up to another, read in one snapshot. Its last chunk carries the row it ends with as a position, so
//! rows with the same cursor are never lost or read twice, however many there are.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connectors::ahead::{Ahead, ahead};
use crate::connectors::{Reading, Split, SplitGoal, Splits};
use crate::data::{BatchStream, Chunk, Lag, Position, Schema};
use crate::failure::Failure;

/// Version of positions.
const VERSION: u32 = 1;

/// A row's cursor and key, in the form that the engine chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    v: u32,
    /// The cursor, then the columns of the key.
    at: Vec<Value>,
}

impl Place {
    /// The place of a row.
    pub(super) fn new(at: Vec<Value>) -> Self {
        Self { v: VERSION, at }
    }

    /// Reads a position back that has one value for each of so many columns.
    pub(super) fn read(position: &Position, columns: usize) -> Result<Vec<Value>, Failure> {
        let place: Self = serde_json::from_str(&position.0)
            .map_err(|error| Failure::permanent("the position of the stream is none of a cursor's").cause(error))?;
        if place.v != VERSION {
            return Err(Failure::permanent(format!("the position of the stream is of another version of haul ({})", place.v)));
        }
        if place.at.len() != columns {
            return Err(Failure::permanent(format!(
                "the position of the stream has {} columns, and the key has {columns}",
                place.at.len()
            ))
            .help("the key of the stream has changed; `--fresh` begins it anew"));
        }
        Ok(place.at)
    }

    fn position(&self) -> Result<Position, Failure> {
        let text = serde_json::to_string(self).map_err(|error| Failure::permanent("failed to write a position down").cause(error))?;
        Ok(Position(text))
    }
}

/// What lies between two rows.
pub(super) struct Page {
    /// The last row of the page, and its rows. `None` when nothing is new.
    pub found: Option<(Place, BatchStream)>,
    /// Whether more is waiting behind it.
    pub more: bool,
    /// Milliseconds since the time that its last cursor says, when it is a time.
    pub behind_ms: Option<u64>,
}

/// An engine's way to get the next page.
#[async_trait]
pub(super) trait Pages: Send + Sync + 'static {
    /// The page after a position, or the first one.
    async fn after(&self, from: Option<&Position>) -> Result<Page, Failure>;
}

/// A table or query that is followed.
pub(super) struct Following {
    pub schema: Schema,
    pub label: String,
    pub every: Duration,
    pub pages: Arc<dyn Pages>,
}

#[async_trait]
impl Reading for Following {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        Ok(Splits::whole(self.label.clone()))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Never ends by itself.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let (schema, every, pages, at) = (self.schema.clone(), self.every, Arc::clone(&self.pages), from.cloned());
        Ok(ahead(|send| Reader { schema, every, pages, send, at }.run()))
    }
}

struct Reader {
    schema: Schema,
    every: Duration,
    pages: Arc<dyn Pages>,
    send: Ahead,
    at: Option<Position>,
}

impl Reader {
    async fn run(mut self) -> Result<(), Failure> {
        loop {
            if !self.page().await? {
                tokio::time::sleep(self.every).await;
            }
        }
    }

    /// Hands one page on. True when the next one is waiting.
    async fn page(&mut self) -> Result<bool, Failure> {
        let Page { found, more, behind_ms } = self.pages.after(self.at.as_ref()).await?;
        let mut last = Chunk::of(RecordBatch::new_empty(self.schema.to_arrow()));
        if let Some((place, mut rows)) = found {
            // The last chunk is known by what follows it: nothing. Until then it is held back.
            let mut held: Option<Chunk> = None;
            while let Some(chunk) = rows.next().await {
                if let Some(earlier) = held.replace(chunk?) {
                    self.send.give(earlier).await?;
                }
            }
            last = held.unwrap_or(last);
            self.at = Some(place.position()?);
        }
        last.position = self.at.clone();
        last.lag = Some(Lag { caught_up: !more, behind_ms: if more { behind_ms } else { Some(0) }, bytes: None, kept: None });
        self.send.give(last).await?;
        Ok(more)
    }
}
