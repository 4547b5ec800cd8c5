//! One view of the keys of a source: a split for each master, read by a scan.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{OptionFuture, try_join};
use futures::stream;
use tokio::sync::mpsc;

use super::decode::Rows;
use super::fetch::Fetch;
use super::layout::Layout;
use crate::connectors::redis::error::FAILOVER;
use crate::connectors::redis::holders::{Held, within};
use crate::connectors::redis::reply::{bytes, good, items};
use crate::connectors::redis::scans::{Range, Recent};
use crate::connectors::redis::{Address, Command, Master, Server, Version, slot};
use crate::connectors::{Reading, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Chunk, Position, Schema};
use crate::define::pipeline::{OtherTypes, RESERVED, RedisRows, RowShape};
use crate::failure::Failure;
use crate::tasks;

/// Keys that the server looks at in one step of a scan.
const SCANNED: usize = 1000;
/// Chunks that may wait for a slow consumer.
const QUEUE: usize = 2;
/// The first version that scans for one type.
const SCAN_TYPE: Version = Version(6, 0, 0);

/// One view of the keys of a source.
pub(super) struct RowReading {
    inner: Arc<Inner>,
}

struct Inner {
    server: Arc<Server>,
    spec: Arc<RedisRows>,
    layout: Layout,
    limit: BatchLimit,
    keeps_null: bool,
}

impl RowReading {
    /// A view through a request's columns.
    pub(super) fn new(server: Arc<Server>, spec: Arc<RedisRows>, layout: Layout, limit: BatchLimit) -> Self {
        Self { inner: Arc::new(Inner { server, spec, layout, limit, keeps_null: false }) }
    }

    /// A view of what haul wrote itself, where JSON's `null` is a value.
    pub(super) fn of_own(server: Arc<Server>, spec: Arc<RedisRows>, layout: Layout, limit: BatchLimit) -> Self {
        Self { inner: Arc::new(Inner { server, spec, layout, limit, keeps_null: true }) }
    }
}

#[async_trait]
impl Reading for RowReading {
    fn schema(&self) -> &Schema {
        &self.inner.layout.schema
    }

    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let topology = self.inner.server.refresh().await?;
        let key = &self.inner.spec.key;
        let masters: Vec<&Master> = match key.constant() {
            Some(key) => topology.master(slot(key.as_bytes())).into_iter().collect(),
            None => topology.masters.iter().collect(),
        };
        let most = goal.most.max(1);
        let share = masters.len().div_ceil(most).max(1);
        let splits = masters.chunks(share).enumerate().map(|(place, masters)| {
            let nodes: Vec<String> = masters.iter().map(|master| master.address.to_string()).collect();
            let id = if most == 1 { "all".to_owned() } else { format!("{place:04}") };
            let slots = masters.iter().flat_map(|master| master.slots.clone()).collect();
            Range { slots }.split(id, format!("{key} on {}", nodes.join(", ")))
        });
        Ok(Splits { splits: splits.collect::<Result<_, Failure>>()?, fingerprint: None })
    }

    /// Slots mean the same keys wherever they move.
    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn read(&self, split: &Split, _: Option<&Position>) -> Result<BatchStream, Failure> {
        let range = Range::of(split)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inner = Arc::clone(&self.inner);
        let task = tasks::start(async move { inner.read(range.slots, sender).await });
        Ok(Box::pin(stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
            if let Some(chunk) = receiver.recv().await {
                return Some((Ok(chunk), (receiver, task)));
            }
            // The reader is done; its answer is the end of the stream.
            let failure = tasks::joined(task?.await).err()?;
            Some((Err(failure), (receiver, None)))
        })))
    }
}

impl Inner {
    async fn read(&self, slots: Vec<(u16, u16)>, sender: mpsc::Sender<Chunk>) -> Result<(), Failure> {
        let rows = Rows::new(self.layout.clone(), self.limit, self.keeps_null);
        let mut fetch = Fetch::new(&self.server, &self.spec, rows, sender).await?;
        match self.spec.key.constant() {
            Some(key) => fetch.keys(&[key.as_bytes().to_vec()]).await?,
            None => self.scans(&slots, &mut fetch).await?,
        }
        fetch.end().await
    }

    /// Reads the keys of some slots, each once. Keys that went to another node meanwhile were read twice, or not at all: then the split is read
    /// again, and nothing of this attempt is committed.
    async fn scans(&self, slots: &[(u16, u16)], fetch: &mut Fetch<'_>) -> Result<(), Failure> {
        let before = self.server.holders(slots).await?;
        if before.moving(slots) > 0 {
            return Err(moving(&self.server, "are being moved"));
        }
        for held in before.of(slots) {
            self.scan(&held, fetch).await?;
        }
        if self.server.holders(slots).await?.moved_since(&before, slots).is_empty() {
            return Ok(());
        }
        Err(moving(&self.server, "went to another node or process while they were read"))
    }

    /// Reads the keys of one node. While one page of keys is read, the next one is asked for.
    async fn scan(&self, held: &Held, fetch: &mut Fetch<'_>) -> Result<(), Failure> {
        let mut recent = Recent::of(&self.server).await?;
        let mut page = page(&self.server, &self.spec, &held.node, b"0").await?;
        loop {
            let mut keys = page.keys;
            keys.retain(|key| within(&held.slots, slot(key)) && recent.is_new(key));
            let next: OptionFuture<_> =
                (page.cursor != b"0").then(|| self::page(&self.server, &self.spec, &held.node, &page.cursor)).into();
            let next = async { next.await.transpose() };
            let (following, ()) = try_join(next, fetch.keys(&keys)).await?;
            match following {
                Some(following) => page = following,
                None => return Ok(()),
            }
        }
    }
}

fn moving(server: &Server, what: &str) -> Failure {
    Failure::transient(format!("slots of `{}` {what}", server.name()))
        .help("let the cluster come to rest first; `redis-cli --cluster check` shows what is going on, `fix` ends what was interrupted")
        .retry_after(Some(FAILOVER))
}

/// One page of a scan.
pub(super) struct Page {
    /// Where the next one begins; `0` after the last.
    pub cursor: Vec<u8>,
    /// Keys of the source.
    pub keys: Vec<Vec<u8>>,
}

/// Asks a node for the next keys of a source. haul's own records are none of them.
pub(super) async fn page(server: &Server, spec: &RedisRows, node: &Address, cursor: &[u8]) -> Result<Page, Failure> {
    let command = Command::new("SCAN").arg(cursor).arg("MATCH").arg(spec.key.pattern()).arg("COUNT").arg(SCANNED);
    let by_type = spec.other_types == OtherTypes::Skip && server.facts().await?.version >= SCAN_TYPE;
    let command = if by_type { command.arg("TYPE").arg(type_name(spec.shape)) } else { command };
    let reply = good(server.on(node, &[command]).await?.pop().unwrap_or_default())?;
    let mut parts = items(reply)?.into_iter();
    let cursor = bytes(parts.next().unwrap_or_default())?.unwrap_or_default();
    let mut keys = Vec::new();
    for key in items(parts.next().unwrap_or_default())? {
        let key = bytes(key)?.unwrap_or_default();
        // The pattern may match keys that the template does not.
        if !key.starts_with(RESERVED.as_bytes()) && spec.key.read(&key).is_some() {
            keys.push(key);
        }
    }
    Ok(Page { cursor, keys })
}

/// The server's name for the type of a shape's keys.
pub(super) fn type_name(shape: RowShape) -> &'static str {
    match shape {
        RowShape::Hash => "hash",
        RowShape::Json | RowShape::String => "string",
        RowShape::List => "list",
        RowShape::Set => "set",
        RowShape::SortedSet => "zset",
        RowShape::Stream => "stream",
    }
}
