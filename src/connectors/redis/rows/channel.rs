//! Messages of a channel, or of all channels of a pattern, as they are published.
//!
//! The server keeps no message: one that is published while nobody listens is lost, and so is what came and is not committed when haul is killed.
//! When the connection breaks, what came before is handed on first, and the failure says what that means.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use super::decode::{Head, Item, Rows};
use super::layout::{Layout, declared};
use super::place::Place;
use crate::connectors::ahead::{Ahead, ahead};
use crate::connectors::redis::{Message, Server};
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits, requested};
use crate::data::{BatchLimit, BatchStream, Chunk, Lag, Position, Schema};
use crate::define::pipeline::{RedisRows, RowShape};
use crate::failure::Failure;

/// Bytes of messages that wait for the target. A server closes the connection of a listener that is as far behind (32 MiB by default), and so
/// does haul, rather than hold the server's memory as well.
const MOST_WAITING: usize = 32 << 20;
/// Bytes that a message counts for besides its own.
const WEIGHT: usize = 32;
/// What the channels begin with by which a server tells of its own keys.
const KEYSPACE: &str = "__key";

/// Messages as a source. All columns are declared.
pub(super) struct ChannelSource {
    server: Arc<Server>,
    spec: Arc<RedisRows>,
}

impl ChannelSource {
    /// Touches nothing yet.
    pub(super) fn new(server: Arc<Server>, spec: RedisRows) -> Self {
        Self { server, spec: Arc::new(spec) }
    }

    fn schema(&self) -> Schema {
        Schema { columns: declared(&self.spec) }
    }
}

#[async_trait]
impl Source for ChannelSource {
    async fn describe(&self) -> Result<Description, Failure> {
        if self.server.facts().await?.cluster && self.spec.key.prefix().starts_with(KEYSPACE) {
            let message = format!("each node of `{}` tells of its own keys alone, and a stream listens to one node", self.server.name());
            return Err(Failure::permanent(message).help("let those who write the keys publish to a channel of another name"));
        }
        let key = &self.spec.key;
        let channels = key.constant().map_or_else(|| format!("the channels {}", key.pattern()), |name| format!("the channel {name}"));
        let consistency = format!("messages of {channels}; at most once: those published while nobody listens are lost");
        Ok(Description { schema: self.schema(), key: Vec::new(), rows: None, bytes: None, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let wanted = requested(&self.schema(), &request)?;
        let declared = vec![false; wanted.columns.len()];
        let layout = Layout::of(&self.spec, &wanted, declared)?;
        Ok(Arc::new(Listening { server: Arc::clone(&self.server), spec: Arc::clone(&self.spec), layout, limit: request.limit }))
    }
}

/// A view of what is published.
struct Listening {
    server: Arc<Server>,
    spec: Arc<RedisRows>,
    layout: Layout,
    limit: BatchLimit,
}

#[async_trait]
impl Reading for Listening {
    fn schema(&self) -> &Schema {
        &self.layout.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        Ok(Splits::whole(self.spec.key.to_string()))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Nothing says that there are no more messages for now.
    fn catches_up(&self) -> bool {
        false
    }

    /// Never ends by itself. The position counts the messages that came, and is no place to go back to.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let at = from.map(Place::read).transpose()?.unwrap_or_else(|| Place::new(0, String::new()));
        let rows = Rows::new(self.layout.clone(), self.limit, false);
        let waiting = Waiting { spec: Arc::clone(&self.spec), rows, at, open: 0, full: VecDeque::new(), bytes: 0 };
        let server = Arc::clone(&self.server);
        Ok(ahead(|to| async move { listen(&server, waiting, &to).await }))
    }
}

/// Takes messages whether or not the target has room for them, as long as they are few enough to be kept.
async fn listen(server: &Server, mut waiting: Waiting, to: &Ahead) -> Result<(), Failure> {
    let key = waiting.spec.key.clone();
    let mut subscription = match key.constant() {
        Some(name) => server.subscribe(name, false).await?,
        None => server.subscribe(&key.pattern(), true).await?,
    };
    let failure = loop {
        tokio::select! {
            biased;
            room = to.room(), if !waiting.full.is_empty() => {
                if let Some(chunk) = waiting.next()? {
                    room?.send(chunk);
                }
            }
            message = subscription.next() => match message {
                Ok(message) => waiting.take(&message)?,
                Err(failure) => {
                    server.doubt();
                    break failure;
                }
            },
            room = to.room(), if waiting.open > 0 => {
                if let Some(chunk) = waiting.next()? {
                    room?.send(chunk);
                }
            }
        }
        if waiting.bytes > MOST_WAITING {
            let message = format!("messages came faster than they are written: {} MiB of them waited", MOST_WAITING >> 20);
            break Failure::transient(message)
                .help("those that follow are lost until these are written; a stream of Redis keeps what waits");
        }
    };
    drop(subscription);
    while let Some(chunk) = waiting.next()? {
        to.give(chunk).await?;
    }
    Err(failure)
}

/// Messages that came and are not handed on.
struct Waiting {
    spec: Arc<RedisRows>,
    rows: Rows,
    /// Behind the last of them.
    at: Place,
    /// Bytes of those in `rows`.
    open: usize,
    /// As many as a chunk may hold, and their bytes.
    full: VecDeque<(Chunk, usize)>,
    bytes: usize,
}

impl Waiting {
    fn take(&mut self, message: &Message) -> Result<(), Failure> {
        // Whatever a pattern lets through that is none of the template's channels has nothing for its columns.
        let Some(parts) = self.spec.key.read(&message.channel) else { return Ok(()) };
        let head = Head { key: &message.channel, parts: &parts, expires_ms: None };
        let bytes = message.channel.len() + message.payload.len();
        self.rows.count(bytes);
        match self.spec.shape {
            RowShape::Json => self.rows.push_object(head, &message.payload),
            _ => self.rows.push(head, Item { value: &message.payload, ..Item::default() }),
        }
        self.at.count += 1;
        self.open += bytes + WEIGHT;
        self.bytes += bytes + WEIGHT;
        if self.rows.is_full()
            && let Some(chunk) = self.close()?
        {
            self.full.push_back(chunk);
        }
        Ok(())
    }

    /// The oldest chunk of those that wait.
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        let oldest = match self.full.pop_front() {
            Some(chunk) => Some(chunk),
            None => self.close()?,
        };
        let Some((chunk, bytes)) = oldest else { return Ok(None) };
        self.bytes -= bytes;
        Ok(Some(chunk))
    }

    fn close(&mut self) -> Result<Option<(Chunk, usize)>, Failure> {
        let bytes = std::mem::take(&mut self.open);
        let Some(mut chunk) = self.rows.take()? else { return Ok(None) };
        chunk.position = Some(self.at.position()?);
        chunk.lag = Some(Lag::default());
        Ok(Some((chunk, bytes)))
    }
}
